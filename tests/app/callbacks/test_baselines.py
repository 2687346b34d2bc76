"""Baselines in loss charts, the printed table and results.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers.paths import QUICKSTART
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.commands.main import main
from datamodules import Digits

SMALL = ["--model.hidden_size", "4", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]


def fit(*options: str) -> int:
    return main(["fit", "--config", QUICKSTART, *SMALL, "--run_dir", "run", *options])


@pytest.mark.parametrize("curve", ["train/loss", "validation/loss"])
def test_baselines_are_reported(curve, monkeypatch, capsys):
    monkeypatch.setattr(Digits, "baselines", lambda self: {"equal odds": math.log(10)})
    assert fit() == 0
    events = EventAccumulator("run/tensorboard/equal odds")
    events.Reload()
    found = events.Scalars(curve)
    assert [event.step for event in found] == [0, 19, 39]  # 1,257 images in batches of 64, twice; as validation metrics
    assert [event.value for event in found] == pytest.approx([2.302585] * 3, abs=1e-6)
    assert json.loads(Path("run/results.json").read_text())["baselines"] == {"equal odds": math.log(10)}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("baseline: equal odds")]
    assert "2.3026" in line


def test_data_without_baselines_report_none(capsys):
    assert fit() == 0
    assert [path.name for path in Path("run/tensorboard").iterdir() if path.is_dir()] == []
    assert json.loads(Path("run/results.json").read_text())["baselines"] == {}
    assert "baseline" not in capsys.readouterr().out
