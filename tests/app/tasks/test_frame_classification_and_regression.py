"""Frame classification and sequence regression on data with and without padding."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.trainers import QUIET
from pytorch_lightning import Trainer

from app.commands.main import main
from app.commands.predict import write_predictions
from app.tasks import FrameClassifier, SequenceRegressor
from cells import DTRIV, LSTM
from datamodules import Adding, Copying

SMALL_COPYING = {"blanks": 3, "symbols": 2, "alphabet": 3, "batch_size": 4, "train_size": 8}
SMALL_ADDING = {"steps": 6, "batch_size": 4, "train_size": 8}


def logged_by(
    task: FrameClassifier | SequenceRegressor, batch: dict[str, torch.Tensor]
) -> dict[str, tuple[int, float]]:
    """Return (weight, value) of each metric of one validation batch."""
    found = {}
    task.log_part = lambda part, weight, **metrics: found.update(
        {f"{part}/{name}": (weight, value.item()) for name, value in metrics.items()}
    )
    task.validation_step(batch, 0)
    return found


def padded_frames() -> dict[str, torch.Tensor]:
    scored = torch.rand(3, 6) < 0.5
    scored[:, 0] = True
    return {
        "inputs": torch.randn(3, 6, 2),
        "targets": torch.randint(4, (3, 6)),
        "lengths": torch.tensor([6, 2, 4]),
        "scored": scored,
    }


@pytest.mark.parametrize("entries", [(), ("lengths",), ("scored",), ("lengths", "scored")], ids=str)
def test_loss_is_over_all_frames_and_accuracy_over_scored_ones(entries):
    task = FrameClassifier(LSTM, input_size=2, num_classes=4, hidden_size=5)
    batch = padded_frames()
    batch = {name: batch[name] for name in ("inputs", "targets", *entries)}
    with torch.no_grad():
        logits = task(batch["inputs"]).double().numpy()
    losses, right = [], []
    for row in range(3):
        for step in range(int(batch["lengths"][row]) if "lengths" in entries else 6):
            scores, target = logits[row, step], int(batch["targets"][row, step])
            losses.append(np.log(np.exp(scores).sum()) - scores[target])
            if "scored" not in entries or batch["scored"][row, step]:
                right.append(scores.argmax() == target)
    assert logged_by(task, batch) == {
        "validation/loss": (len(losses), pytest.approx(np.mean(losses), abs=1e-6)),
        "validation/accuracy": (len(right), pytest.approx(np.mean(right), abs=1e-6)),
    }


@pytest.mark.parametrize("lengths", [None, torch.tensor([6, 2, 4])])
def test_loss_is_the_squared_error_at_the_last_step(lengths):
    task = SequenceRegressor(LSTM, input_size=2, target_size=3, hidden_size=5)
    batch = {"inputs": torch.randn(3, 6, 2), "targets": torch.randn(3, 3)}
    batch |= {} if lengths is None else {"lengths": lengths}
    errors = []
    for row in range(3):
        y_BTH, _ = task.cell(batch["inputs"][row : row + 1, : None if lengths is None else int(lengths[row])])
        errors.append((task.head(y_BTH[0, -1]) - batch["targets"][row]).detach().double().numpy())
    assert logged_by(task, batch) == {"validation/loss": (3, pytest.approx(np.square(errors).mean(), abs=1e-6))}


@pytest.mark.parametrize(
    ("make", "data"),
    [(FrameClassifier, Copying(**SMALL_COPYING)), (SequenceRegressor, Adding(**SMALL_ADDING))],
    ids=["copying", "adding"],
)
def test_checkpoint_rebuilds_the_task(make, data, tmp_path):
    sizes = {name: getattr(data, name) for name in ("input_size", "num_classes", "target_size") if hasattr(data, name)}
    task = make(partial(DTRIV, rebase_every=1), hidden_size=5, **sizes)
    trainer = Trainer(**QUIET, max_epochs=1, limit_val_batches=0)
    trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    again = make.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    inputs = data.test.__getitems__(range(3))["inputs"]
    assert torch.equal(again(inputs), task(inputs))


def test_predictions_have_one_row_per_scored_step():
    task = FrameClassifier(LSTM, input_size=2, num_classes=4, hidden_size=5)
    batch = padded_frames()
    assert write_predictions([task.predict_step(batch, 0)], Path("found.csv")) == sum(
        int(batch["scored"][row, :length].sum()) for row, length in enumerate(batch["lengths"])
    )
    with Path("found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "step", "target", "prediction", "probability"]
    assert rows[0]["step"] == "0"
    assert int(rows[0]["target"]) == batch["targets"][0, 0]
    best, label = task(batch["inputs"])[0, 0].softmax(-1).max(-1)
    assert (int(rows[0]["prediction"]), float(rows[0]["probability"])) == (label, pytest.approx(best.item()))


def test_predictions_contain_their_targets():
    task = SequenceRegressor(LSTM, input_size=2, target_size=2, hidden_size=5)
    batch = {"inputs": torch.randn(3, 6, 2), "targets": torch.randn(3, 2)}
    found = task.predict_step(batch, 0)
    assert list(found) == ["target_0", "target_1", "prediction_0", "prediction_1"]
    assert torch.equal(torch.stack([found["target_0"], found["target_1"]], 1), batch["targets"])
    assert torch.equal(torch.stack([found["prediction_0"], found["prediction_1"]], 1), task(batch["inputs"]))


OPTIONS = {
    "Copying": ["FrameClassifier", "--data.blanks", "3", "--data.symbols", "2", "--data.alphabet", "3"],
    "Adding": ["SequenceRegressor", "--data.steps", "6"],
}


@pytest.mark.parametrize("data", OPTIONS)
def test_commands_on_a_trained_model(data, capsys):
    model, *sizes = OPTIONS[data]
    options = ["--data", data, *sizes, "--data.train_size", "64", "--data.test_size", "10"]
    options += ["--model", model, "--model.cell", "LSTM", "--model.hidden_size", "4"]
    options += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", *options, "--run_dir", "run"]) == 0
    printed = capsys.readouterr().out
    assert "baseline: " in printed
    assert "not solved: the test loss is " in printed
    for command in ("test", "predict", "export"):
        assert main([command, "--ckpt_path", "run/checkpoints/best.ckpt"]) == 0


class Shown:
    """A board that stores figures."""

    def __init__(self):
        self.figures = {}

    def figure(self, name, figure):
        self.figures[name] = figure


def test_figure_shows_labels_from_the_first_to_the_last_scored_step():
    task = FrameClassifier(LSTM, input_size=2, num_classes=4, hidden_size=5)
    batch, board = padded_frames(), Shown()
    batch["scored"] = torch.tensor([[0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 1]]).bool()
    batch["lengths"] = torch.tensor([6, 0, 6])  # the second row is padding
    outputs = task(batch["inputs"]).detach()
    task.show_batch(board, batch, outputs, 0)
    target, prediction, *_ = board.figures["labels"].axes
    assert np.array_equal(target.images[0].get_array(), batch["targets"][:, 2:6])
    assert np.array_equal(prediction.images[0].get_array(), outputs[:, 2:6].argmax(-1))
    assert target.images[0].get_extent()[:2] == [1.5, 5.5]
    task.show_batch(board := Shown(), batch, outputs, 1)
    assert not board.figures


def test_figure_shows_predictions_against_targets():
    task = SequenceRegressor(LSTM, input_size=2, target_size=1, hidden_size=5)
    batch, board = {"inputs": torch.randn(3, 6, 2), "targets": torch.randn(3, 1)}, Shown()
    outputs = task(batch["inputs"]).detach()
    task.show_batch(board, batch, outputs, 0)
    points = board.figures["agreement"].axes[0].lines[0]
    assert np.array_equal(points.get_xdata(), batch["targets"][:, 0])
    assert np.array_equal(points.get_ydata(), outputs[:, 0])
