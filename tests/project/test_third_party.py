"""A core, a drive, a task and a data module of a user work from the command line; no list of the project names them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.third_party import SignLeaky

from app.commands.main import main
from cells import check_cell, gain_report

PARTS = "helpers.third_party"
FIT = [
    *("fit", "--model", f"{PARTS}.SignClassifier", "--data", f"{PARTS}.Signs", "--data.batch_size", "16"),
    *("--model.cell", f"{PARTS}.SignLeaky", "--model.cell.rate", "0.25", "--model.hidden_size", "6"),
    *("--model.optimizer", "Adam", "--model.optimizer.lr", "0.03", "--trainer.enable_progress_bar", "false"),
]
COMMANDS = {
    "test": ["test", "--ckpt_path", "run/checkpoints/best.ckpt"],
    "diagnose": ["diagnose", "--ckpt_path", "run/checkpoints/best.ckpt"],
    "resume": ["fit", "--resume", "run", "--trainer.max_epochs", "7"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a training from the command line, by a process that has imported none of the parts."""
    folder = tmp_path_factory.mktemp("third_party")
    command = [sys.executable, "-m", "app", *FIT, "--trainer.max_epochs", "6", "--run_dir", "run"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def test_they_train(run):
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["accuracy"] > 0.9  # guessing gives 0.25
    assert results["cell"]["class_path"] == f"{PARTS}.SignLeaky"
    assert results["cell"]["init_args"]["rate"] == 0.25
    assert (results["task"], results["data"]) == ("SignClassifier", "Signs")


@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands_accept_them(name, run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert main(COMMANDS[name]) == 0


def test_cell_meets_the_contract():
    check_cell(SignLeaky)


def test_analysis_uses_the_defaults_of_core_and_drive():
    report = gain_report(SignLeaky(2, 5))
    assert report.dc_gain == pytest.approx((1 + 1e-6) ** 0.5, rel=1e-5)  # the drive maps the constant 1 to this
