"""Every cell trains in lower precision, through the Trainer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.optim import Adam

import cells
from app.divergence import StopOnDivergence
from app.random_states import RandomStates
from app.tasks import SequenceClassifier
from datamodules import Digits

NAMES = [name for name, classes in cells.registered_cells().items() if classes[0].__module__.startswith("cells.")]
FEW = ("LSTM", "MomentumGRU", "AdamDTRIV", "NesterovRNN")
ARGUMENTS = {"NesterovDTRIV": {"restart_period": 2}}  # with the default it leaves the range of numbers in 64 steps


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def losses(name: str, precision: str, accelerator: str = "cpu") -> list[float]:
    """Of five steps; the parameters must stay float32."""
    torch.manual_seed(0)
    cell = partial(cells.find_cell(name), **ARGUMENTS.get(name, {}))
    task = SequenceClassifier(cell, input_size=1, num_classes=10, hidden_size=8, optimizer=partial(Adam, lr=1e-3))
    record = Losses()
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_steps=5,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RandomStates(), StopOnDivergence(), record],
    )
    trainer.fit(task, Digits(batch_size=16))
    assert {parameter.dtype for parameter in task.parameters()} == {torch.float32}
    return record.losses


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_bf16_mixed_stays_near_full_precision(name):
    assert losses(name, "bf16-mixed") == pytest.approx(losses(name, "32"), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_16_mixed_stays_near_full_precision(name):
    """On a CPU Lightning takes bf16 in its place."""
    assert losses(name, "16-mixed") == pytest.approx(losses(name, "32"), rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_lower_precision_on_a_gpu(name, precision):
    """A scaler may skip the first steps, so 16-mixed need only be finite and of the same size."""
    found, expected = losses(name, precision, "gpu"), losses(name, "32", "gpu")
    assert found == pytest.approx(expected, rel=0.05 if precision == "bf16-mixed" else 0.2)
