"""Training of every cell in mixed precision, in every kind of task."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.fake_corpus import write_small_corpus
from pytorch_lightning import Callback, Trainer
from torch.optim import Adam

import cells
from app.callbacks.divergence import StopOnDivergence
from app.callbacks.random_states import RandomStates
from app.tasks import FrameRegressor, LanguageModel, SequenceClassifier
from app.tasks.regularization import Regularization
from datamodules import TIMIT, Corpus, Digits

NAMES = [name for name, classes in cells.registered_cells().items() if classes[0].__module__.startswith("cells.")]
FEW = ("LSTM", "MomentumGRU", "AdamDTRIV", "NesterovRNN")
ARGUMENTS = {"NesterovDTRIV": {"restart_period": 2}}  # with the default it leaves the range of numbers in 64 steps
ADAM = partial(Adam, lr=1e-3)


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


TASKS = {  # task and data; called with the cell and a folder of small data sets
    "classification": lambda cell, folder: (
        SequenceClassifier(cell, input_size=1, num_classes=10, hidden_size=8, optimizer=ADAM),
        Digits(batch_size=16),
    ),
    "frames": lambda cell, folder: (
        FrameRegressor(cell, input_size=129, target_size=129, hidden_size=8, optimizer=ADAM, center=-20, scale=15),
        TIMIT(prepared=str(folder / "features"), batch_size=1),
    ),
    "language": lambda cell, folder: (
        LanguageModel(
            cell,
            13,
            8,
            (8, 8),
            regularization=Regularization(weight_dropout=0.5 if "weight_hh" in parameters_of(cell) else 0.0),
            optimizer=ADAM,
        ),
        Corpus(str(folder / "corpus"), batch_size=4, window=20),
    ),
}


def parameters_of(cell) -> dict[str, torch.nn.Parameter]:
    return dict(cell(1, 2).named_parameters())


def losses(
    name: str, precision: str, folder: Path, task: str = "classification", accelerator: str = "cpu"
) -> list[float]:
    """Return the losses of five steps and the validation loss; check that the parameters stay in float32."""
    torch.manual_seed(0)
    module, data = TASKS[task](partial(cells.find_cell(name), **ARGUMENTS.get(name, {})), folder)
    record = Losses()
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_steps=5,
        limit_val_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RandomStates(), StopOnDivergence(), record],
    )
    trainer.fit(module, data)
    trainer.validate(module, data, verbose=False)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert len(record.losses) == 5
    return [*record.losses, trainer.callback_metrics["validation/loss"].item()]


@pytest.fixture(scope="module")
def folder(small_timit) -> Path:
    """A folder of small data sets for all tasks."""
    write_small_corpus(small_timit / "corpus")
    return small_timit


# the memory of an untrained NRU grows with the sequence, and its rounding errors too: short sequences only
PAIRS = [(name, task) for task in TASKS for name in NAMES if name != "NRU" or task == "classification"]
FAST = [*((name, "classification") for name in FEW), *(("MomentumGRU", task) for task in TASKS)]


@pytest.mark.parametrize(
    ("name", "task"), [pair if pair in FAST else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS]
)
def test_bf16_mixed_stays_near_full_precision(name, task, folder):
    assert losses(name, "bf16-mixed", folder, task) == pytest.approx(losses(name, "32", folder, task), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_16_mixed_stays_near_full_precision(name, task, folder):
    """On a CPU, Lightning uses bf16 instead."""
    assert losses(name, "16-mixed", folder, task) == pytest.approx(losses(name, "32", folder, task), rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "task"), PAIRS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_on_a_gpu(name, task, precision, folder):
    """The gradient scaler may skip the first steps, so 16-mixed must only be close."""
    found, expected = (losses(name, chosen, folder, task, "gpu") for chosen in (precision, "32"))
    assert found == pytest.approx(expected, rel=0.05 if precision == "bf16-mixed" else 0.2)
