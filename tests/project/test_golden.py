"""The losses of the first ten steps of each task, with each cell or with one of each family.

A change of the numbers needs a reason in its commit.

``python tests/test_golden.py`` writes them anew.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import Adam

import cells
from app.tasks import FrameClassifier, SequenceClassifier, SequenceRegressor
from datamodules import Adding, Copying, Digits

GOLDEN = Path(__file__).parent / "golden"
ARGUMENTS = {"NesterovDTRIV": {"restart_period": 2}}  # with the default it leaves the range of numbers in 64 steps
NAMES = [name for name, classes in cells.registered_cells().items() if classes[0].__module__.startswith("cells.")]
FAMILIES = ["RNN", "LSTM", "GRU", "DTRIV", "MomentumLSTM", "AdamLSTM", "NesterovLSTM"]
TASKS = {
    "sequence_classification": (SequenceClassifier, Digits, NAMES),
    "frame_classification": (FrameClassifier, partial(Copying, blanks=20), FAMILIES),
    "sequence_regression": (SequenceRegressor, partial(Adding, steps=30), FAMILIES),
}
CASES = [(task, name) for task, (_, _, names) in TASKS.items() for name in names]


def ten_losses(task_name: str, name: str) -> list[float]:
    """Ten steps of Adam on the first examples in their order, in float64."""
    make, make_data, _ = TASKS[task_name]
    torch.manual_seed(0)
    data = make_data(batch_size=16)
    data.setup()
    sizes = {size: getattr(data, size) for size in make.required_sizes}
    cell = partial(cells.find_cell(name), **ARGUMENTS.get(name, {}))
    task = make(cell, hidden_size=8, optimizer=partial(Adam, lr=0.01), **sizes)
    task.double()
    task.log_part = lambda *args, **metrics: None  # there is no trainer to log to
    optimizer = task.configure_optimizers()
    losses = []
    for step in range(10):
        batch = data.train.__getitems__(range(16 * step, 16 * (step + 1)))
        batch = {entry: tensor.double() if tensor.is_floating_point() else tensor for entry, tensor in batch.items()}
        loss = task.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("task", "name"), CASES)
def test_first_ten_losses(task, name):
    golden = json.loads((GOLDEN / f"{task}.json").read_text())
    assert ten_losses(task, name) == pytest.approx(golden[name], rel=1e-6)


if __name__ == "__main__":
    for task, (_, _, names) in TASKS.items():
        losses = {name: ten_losses(task, name) for name in names}
        (GOLDEN / f"{task}.json").write_text(json.dumps(losses, indent=1) + "\n")
