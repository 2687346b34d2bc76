"""Baselines of the data as horizontal lines in the loss charts of TensorBoard."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from datamodules import DataModule

CURVES = ("train/loss", "validation/loss")


class BaselineCurves(Callback):
    """Draws the loss of each baseline of the data as a horizontal line in the loss charts.

    TensorBoard draws curves with the same tag from different folders in one chart. Each baseline is therefore written
    to a folder with its name below the run's folder.
    """

    def __init__(self) -> None:
        self.writers: dict[str, tuple[SummaryWriter, float]] = {}

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, step = trainer.datamodule, trainer.global_step  # type: ignore[attr-defined]  # Lightning sets it
        if isinstance(data, DataModule) and isinstance(trainer.logger, TensorBoardLogger):
            folder = Path(trainer.logger.log_dir)
            self.writers = {
                name: (SummaryWriter(folder / name, purge_step=step or None), loss)
                for name, loss in data.baselines().items()
            }
        if step == 0:  # a resumed run has drawn the first point
            self._draw(0)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer.global_step - 1)  # as Lightning's metrics of this validation

    @rank_zero_only
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for writer, _ in self.writers.values():
            writer.close()
        self.writers = {}

    def _draw(self, step: int) -> None:
        for writer, loss in self.writers.values():
            for curve in CURVES:
                writer.add_scalar(curve, loss, step)
            writer.flush()  # before the checkpoint, from which a resumed run continues the line
