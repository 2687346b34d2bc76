"""When a task that can be solved was solved."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from datamodules import DataModule


class Solved(Callback):
    """Keeps the number of optimiser steps after which the validation loss was first below the data's margin.

    Args:
        stop: Whether the training ends there.

    Attributes:
        step: That number; None before, and where the data have no margin.
    """

    def __init__(self, stop: bool) -> None:
        self.stop = stop
        self.step: int | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        if trainer.sanity_checking or not isinstance(data, DataModule) or data.solved_below is None:
            return
        if self.step is None and trainer.callback_metrics["validation/loss"] < data.solved_below:
            self.step = trainer.global_step
        if self.step is not None and self.stop:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
