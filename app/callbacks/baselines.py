"""What trivial answers reach, beside the curves of training."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from datamodules import DataModule

CURVES = ("train/loss", "validation/loss")


class BaselineCurves(Callback):
    """A level line in each chart of the loss for each of the data's baselines.

    TensorBoard draws the curves of one name in one chart if they come from different folders, so each baseline has a
    folder of its own, below the run's, by its name.
    """

    def __init__(self) -> None:
        self.writers: dict[str, tuple[SummaryWriter, float]] = {}

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        if isinstance(data, DataModule) and isinstance(trainer.logger, TensorBoardLogger):
            folder = Path(trainer.logger.log_dir)
            self.writers = {name: (SummaryWriter(folder / name), loss) for name, loss in data.baselines().items()}

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer.global_step)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer.global_step)

    @rank_zero_only
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for writer, _ in self.writers.values():
            writer.close()
        self.writers = {}

    def _draw(self, step: int) -> None:
        for writer, loss in self.writers.values():
            for curve in CURVES:
                writer.add_scalar(curve, loss, step)
