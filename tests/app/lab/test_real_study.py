"""A study with the real ``fit``: a killed run ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.paths import QUICKSTART, ROOT

STUDY = f"""
config: {QUICKSTART}
cells: {{MomentumLSTM: {{momentum: 0.5}}}}
shared: {{model.hidden_size: 8, trainer.enable_model_summary: false}}
budget: {{epochs: 12}}
seeds: {{reporting: [0]}}
targets: [{{metric: loss, value: 0.1}}]
"""
TIMES = {"seconds", "versions"}


def start(directory: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "app", "sweep", "study.yaml", "--worker", "--dir", directory]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})


def trainings(worker: int) -> list[int]:
    """Process numbers of the runs that a worker trains."""
    return [int(pid) for pid in Path(f"/proc/{worker}/task/{worker}/children").read_text().split()]


def one(pattern: str) -> Path | None:
    return next(Path().glob(pattern), None)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes as Linux shows them")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_study_equals_an_undisturbed_one(number):
    Path("study.yaml").write_text(STUDY)
    assert start("undisturbed").wait(280) == 0
    assert json.loads(one("undisturbed/outcomes/*.json").read_text())["status"] == "complete"
    worker = start("killed")
    while not (curves := one("killed/runs/*/curves.json")) or len(json.loads(curves.read_text())) < 3:
        time.sleep(0.02)
    for process in [*trainings(worker.pid), worker.pid] if number == signal.SIGKILL else [worker.pid]:
        os.kill(process, number)
    assert worker.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    assert one("killed/outcomes/*.json") is None
    assert start("killed").wait(280) == 0
    outcome = json.loads(one("killed/outcomes/*.json").read_text())
    assert (outcome["status"], outcome["starts"]) == ("complete", 2)
    results, curves = [], []
    for directory in ("undisturbed", "killed"):
        found = json.loads(one(f"{directory}/runs/*/results.json").read_text())
        results.append({name: value for name, value in found.items() if name not in TIMES})
        rows = json.loads(one(f"{directory}/runs/*/curves.json").read_text())
        curves.append([{name: value for name, value in row.items() if name not in TIMES} for row in rows])
    assert results[0] == results[1]
    assert curves[0] == curves[1]
    assert [row["epoch"] for row in curves[0]] == list(range(1, 13))
    assert min(results[0]["flops"].values()) > 0
