"""The step at which a problem was solved."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from datamodules import DataModule


class Solved(Callback):
    """Records when the validation loss first falls below ``solved_below`` of the data.

    Args:
        stop: Whether to stop the training then.

    Attributes:
        step: Number of optimizer steps until then. None if it has not happened, or the data have no ``solved_below``.
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
