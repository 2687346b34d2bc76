"""Recording when a problem is solved, and stopping then."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from helpers.paths import QUICKSTART
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.commands.main import main
from datamodules import Adding

OPTIONS = ["--data", "Adding", "--data.steps", "2", "--data.train_size", "500", "--data.validation_size", "50"]
OPTIONS += ["--data.test_size", "50", "--model", "SequenceRegressor", "--model.cell", "RNN", "--model.hidden_size", "8"]
OPTIONS += ["--model.optimizer", "Adam", "--model.optimizer.lr", "0.02", "--trainer.max_epochs", "12"]
OPTIONS += ["--trainer.enable_progress_bar", "false", "--run_dir", "run"]


def results() -> dict:
    return json.loads(Path("run/results.json").read_text())


def validation_losses() -> list[tuple[int, float]]:
    """Return (optimizer steps, loss) of each validation during training."""
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    *training, _ = events.Scalars("validation/loss")  # the last one is the final evaluation
    return [(event.step + 1, event.value) for event in training]  # Lightning counts from 0


def test_records_the_first_step_below_the_margin(capsys):
    assert main(["fit", *OPTIONS]) == 0
    below = [step for step, loss in validation_losses() if loss < 0.01]
    assert 10 < below[0] < 120  # during the training
    found = results()
    assert found["solved"] is (found["test"]["loss"] < 0.01)
    assert found["solved_below"] == 0.01
    assert found["solved_at_step"] == below[0]
    assert f"the validation loss was after step {below[0]}" in capsys.readouterr().out
    assert found["epochs"] == 12


def test_run_stops_when_solved():
    assert main(["fit", *OPTIONS, "--stop_when_solved", "true"]) == 0
    losses = validation_losses()
    assert [loss < 0.01 for _, loss in losses] == [False] * (len(losses) - 1) + [True]
    assert results()["solved_at_step"] == losses[-1][0]
    assert results()["epochs"] == len(losses) < 12


def test_not_solved(monkeypatch, capsys):
    monkeypatch.setattr(Adding, "solved_below", 1e-9)
    assert main(["fit", *OPTIONS, "--trainer.max_epochs", "1"]) == 0
    assert (results()["solved"], results()["solved_at_step"]) == (False, None)
    assert "not solved: the test loss is " in capsys.readouterr().out


def test_data_without_a_margin_report_nothing(trained):
    assert not {"solved", "solved_below", "solved_at_step"} & json.loads((trained / "results.json").read_text()).keys()


def test_checkpoint_holds_the_step():
    assert main(["fit", *OPTIONS, "--stop_when_solved", "true"]) == 0
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["Solved"] == {"step": results()["solved_at_step"]}


def test_stop_when_solved_needs_a_margin(capsys):
    assert main(["fit", "--config", QUICKSTART, "--run_dir", "run", "--stop_when_solved", "true"]) == 2
    assert "stop_when_solved is true, but Digits defines no margin for it" in capsys.readouterr().err
