"""The losses of the first ten steps of each task, with every cell or with one of each family.

A change of these numbers needs a reason in the commit that makes it. To write the files again:

    PYTHONPATH=.:tests python tests/project/test_golden.py

Shapes: B batch, T time, I input_size, F target_size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers.cell_builders import BUILT_IN, COMBINED, slow
from helpers.fake_corpus import small_text
from torch.optim import Adam

from app.tasks import FrameClassifier, FrameRegressor, LanguageModel, SequenceClassifier, SequenceRegressor
from app.tasks.regularization import Regularization
from datamodules import Adding, Batch, Copying, DataModule, Digits

GOLDEN = Path(__file__).parent / "golden"
STEPS, ROWS = 10, 16

# Everything is in float64, the initial weights too. Processors, numbers of threads and releases of torch differ in the
# order of sums and in their exponential functions, by a few rounding units of 1.1e-16 in each operation. The
# recurrences amplify these differences: the losses with AVX-512, AVX2 and neither differ by at most 5e-14, except those
# of the NRU, whose unbounded memory amplifies over 10 steps of 64 time steps to 2.2e-11. The tolerance is 50 times as
# large as that.
TOLERANCE = 1e-9

ARGUMENTS = {"NesterovDTRIV": {"restart_period": 2}}  # the default overflows within 64 steps
FAMILIES = ["RNN", "LSTM", "GRU", "DTRIV", "MomentumLSTM", "AdamLSTM", "NesterovLSTM"]


class Problem(NamedTuple):
    """A task, the batches of its ten steps, and the cells to train.

    Attributes:
        task: Called with ``cell`` and ``optimizer``.
        batches: Return the batches.
        names: Names of the cells.
        training: Whether the task is in training mode. Dropout draws numbers that differ between builds of torch.
    """

    task: Callable[..., torch.nn.Module]
    batches: Callable[[], list[Batch]]
    names: list[str]
    training: bool = True


def batches_of(data: DataModule) -> list[Batch]:
    """Return the first training examples in their order."""
    data.setup()
    return [data.train.__getitems__(range(ROWS * step, ROWS * (step + 1))) for step in range(STEPS)]


def batches_of_words() -> list[Batch]:
    """Return windows of a text of which each row continues in the next window; one row starts again halfway."""
    text = small_text("train").split()
    vocabulary = sorted(set(text))
    rows_BT = torch.tensor([vocabulary.index(word) for word in text]).unfold(0, 7 * STEPS + 1, 7 * STEPS)[:ROWS]
    batches = []
    for step in range(STEPS):
        window_BT = rows_BT[:, 7 * step : 7 * step + 8]
        reset_B = torch.full((len(window_BT),), step == 0)
        reset_B[0] |= step == STEPS // 2
        batches.append({"inputs": window_BT[:, :-1], "targets": window_BT[:, 1:], "reset": reset_B})
    return batches


def batches_of_frames() -> list[Batch]:
    """Return padded sums of sines, to be predicted one step ahead."""
    batches = []
    for step in range(STEPS):
        row_B11 = torch.arange(ROWS)[:, None, None] + ROWS * step
        time_1T1, feature_11F = torch.arange(21)[None, :, None], torch.arange(5)[None, None]
        frames_BTF = torch.sin(0.1 * (feature_11F + 1) * time_1T1 + row_B11) + torch.cos(0.3 * time_1T1 * row_B11)
        batches.append(
            {"inputs": frames_BTF[:, :-1], "targets": frames_BTF[:, 1:], "lengths": 20 - torch.arange(ROWS) % 7}
        )
    return batches


PROBLEMS = {
    "sequence_classification": Problem(
        partial(SequenceClassifier, input_size=1, num_classes=10, hidden_size=8),
        lambda: batches_of(Digits(batch_size=ROWS)),
        list(BUILT_IN),
    ),
    "frame_classification": Problem(
        partial(FrameClassifier, input_size=10, num_classes=9, hidden_size=8),
        lambda: batches_of(Copying(batch_size=ROWS, blanks=20)),
        FAMILIES,
    ),
    "sequence_regression": Problem(
        partial(SequenceRegressor, input_size=2, target_size=1, hidden_size=8),
        lambda: batches_of(Adding(batch_size=ROWS, steps=30)),
        FAMILIES,
    ),
    "frame_regression": Problem(
        partial(FrameRegressor, input_size=5, target_size=5, hidden_size=8), batches_of_frames, FAMILIES
    ),
    "language_modeling": Problem(
        partial(
            LanguageModel,
            vocabulary_size=12,
            embedding_size=6,
            hidden_sizes=(8, 6),
            regularization=Regularization(weight_dropout=0.0),  # which a cell without weight_hh does not support
        ),
        batches_of_words,
        FAMILIES,
        training=False,
    ),
}
CASES = [
    slow(problem, name) if name in COMBINED else (problem, name)
    for problem, (_, _, names, _) in PROBLEMS.items()
    for name in names
]


def ten_losses(problem: str, name: str) -> list[float]:
    """Return the losses of ten steps of Adam in float64."""
    make_task, make_batches, _, training = PROBLEMS[problem]
    batches = make_batches()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        cell = partial(BUILT_IN[name], **ARGUMENTS.get(name, {}))
        task = make_task(cell, optimizer=partial(Adam, lr=0.01)).double().train(training)
        optimizer = task.configure_optimizers()
        losses = []
        for step, batch in enumerate(batches):
            batch = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
            loss = task.training_step(batch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    finally:
        torch.set_default_dtype(torch.float32)
    return losses


@pytest.mark.parametrize(("problem", "name"), CASES)
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no trainer
def test_first_ten_losses(problem, name):
    golden = json.loads((GOLDEN / f"{problem}.json").read_text())
    assert ten_losses(problem, name) == pytest.approx(golden[name], rel=TOLERANCE)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_golden_file_holds_each_cell_once(problem):
    assert sorted(json.loads((GOLDEN / f"{problem}.json").read_text())) == sorted(PROBLEMS[problem].names)


if __name__ == "__main__":
    for problem in PROBLEMS:
        losses = {name: ten_losses(problem, name) for name in PROBLEMS[problem].names}
        (GOLDEN / f"{problem}.json").write_text(json.dumps(losses, indent=1) + "\n")
