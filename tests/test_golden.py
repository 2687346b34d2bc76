"""The losses of the first ten steps of each task with each cell: a change of the numbers needs a reason in its commit.

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
from app.tasks import SequenceClassifier
from datamodules import Digits

GOLDEN = Path(__file__).parent / "golden" / "sequence_classification.json"
ARGUMENTS = {"NesterovDTRIV": {"restart_period": 2}}  # with the default it leaves the range of numbers in 64 steps
NAMES = [name for name, classes in cells.registered_cells().items() if classes[0].__module__.startswith("cells.")]


def ten_losses(name: str) -> list[float]:
    """Ten steps of Adam on the digits in their order, in float64."""
    torch.manual_seed(0)
    data = Digits(batch_size=16)
    data.setup()
    cell = partial(cells.find_cell(name), **ARGUMENTS.get(name, {}))
    task = SequenceClassifier(cell, input_size=1, num_classes=10, hidden_size=8, optimizer=partial(Adam, lr=0.01))
    task.double()
    task.log_part = lambda *args, **metrics: None  # there is no trainer to log to
    optimizer = task.configure_optimizers()
    losses = []
    for step in range(10):
        rows = range(16 * step, 16 * (step + 1))
        batch = data.train.__getitems__(rows)
        loss = task.training_step({**batch, "inputs": batch["inputs"].double()}, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_first_ten_losses(name):
    golden = json.loads(GOLDEN.read_text())
    assert ten_losses(name) == pytest.approx(golden[name], rel=1e-6)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: ten_losses(name) for name in NAMES}, indent=1) + "\n")
