"""What every run of ``fit`` does beside training."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer

from app.baselines import BaselineCurves
from app.pictures import confusion_picture, examples_picture
from app.random_states import RandomStates
from app.run import RunDirectory, write_text
from app.tasks import SequenceClassifier, Task
from cells import parameter_roles
from datamodules import Batch, DataModule

SHOWN = 32  # examples in a picture


def run_callbacks(task: Task, run: RunDirectory, observe: bool) -> list[Callback]:
    """Checkpoints by validation (best and last), curves of baselines and learning rate, and :class:`Observe`."""
    best = BestCheckpoint(
        run.checkpoints,
        run.best.stem,
        monitor=task.monitor,
        mode=task.mode,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    last = ModelCheckpoint(
        run.checkpoints, run.last.stem, every_n_epochs=1, save_on_exception=True, enable_version_counter=False
    )
    return [RandomStates(), best, last, LearningRateMonitor(), BaselineCurves(), *([Observe()] if observe else [])]


class Observe(Callback):
    """What TensorBoard shows beside loss and accuracy.

    ``gradient_norm``: before clipping, of all parameters, of those of each role, and of the others by the part of the
    task that they belong to; ``throughput``: training sequences a second, over an epoch; for classifiers, after each
    validation, the confusion matrix and the first examples with what they were taken for.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # which is not called where training resumes within an epoch
        roles = parameter_roles(pl_module)
        self.parts = {name: roles.get(name, name.partition(".")[0]) for name, _ in pl_module.named_parameters()}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        squares: dict[str, list[Tensor]] = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                squares.setdefault(self.parts[name], []).append(parameter.grad.detach().float().square().sum())
        sums = {part: torch.stack(terms).sum() for part, terms in squares.items()}
        sums["all"] = torch.stack(list(sums.values())).sum()
        pl_module.log_dict({f"gradient_norm/{part}": total.sqrt() for part, total in sums.items()})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sequences = 0
        self.start = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.sequences += len(batch["inputs"])
        self.seconds = time.monotonic() - self.start  # without the validation, which comes before the epoch ends

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rate = self.sequences / self.seconds
        pl_module.log("throughput/sequences_per_second", rate, reduce_fx="sum", sync_dist=True)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, SequenceClassifier):
            classes = pl_module.num_classes
            self.counts_CC = torch.zeros(classes, classes, dtype=torch.int64, device=pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(pl_module, SequenceClassifier) or trainer.sanity_checking:
            return
        targets, predictions = batch["targets"], outputs.argmax(-1)
        ones = torch.ones_like(targets)
        self.counts_CC.index_put_((targets, predictions), ones, accumulate=True)
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        if batch_idx == 0 and isinstance(data, DataModule):
            images = data.images(batch["inputs"][:SHOWN])
            if images is not None:
                picture = examples_picture(images, targets[:SHOWN].tolist(), predictions[:SHOWN].tolist())
                _show(trainer, "examples", picture)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, SequenceClassifier) and not trainer.sanity_checking:
            counts_CC = trainer.strategy.reduce(self.counts_CC, reduce_op="sum")
            _show(trainer, "confusion", confusion_picture(counts_CC.cpu()))


def _show(trainer: Trainer, name: str, picture: np.ndarray) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")


class BestCheckpoint(ModelCheckpoint):
    """The best epoch by ``monitor``, and of equal ones the latest, which has been trained for longer.

    Ties are common where a metric counts few examples, and Lightning would keep the first.
    """

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        as_good = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        return trainer.strategy.reduce_boolean_decision(as_good) or super().check_monitor_top_k(trainer, current)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar without the version number, which a run directory does not have."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class SaveConfig(SaveConfigCallback):
    """Write the configuration to ``RUN/config.yaml``, without the run directory, so that it can be run again.

    What the data module wants to have in the run directory is written with it.
    """

    def __init__(self, *args: Any, run: RunDirectory) -> None:
        super().__init__(*args)
        self.save_to_log_dir = False  # save_config below decides where
        self.run = run

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = self.config.clone()
        config.run_dir = None
        write_text(self.run.config, self.parser.dump(config, skip_unset=False))
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        for name, text in data.run_files().items():
            write_text(self.run.path / name, text)
