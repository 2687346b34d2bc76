"""What every run of ``fit`` does beside training."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.cli import SaveConfigCallback
from torch import Tensor

from app.baselines import BaselineCurves
from app.gradients_through_time import GradientsThroughTime
from app.observe import Observe
from app.random_states import RandomStates
from app.run import RunDirectory, write_text
from app.tasks import Task


def run_callbacks(task: Task, run: RunDirectory, observe: bool, probe_every: int = 0) -> list[Callback]:
    """Checkpoints (best, last) with the random states, curves of baselines and learning rate, and what is observed.

    Args:
        task: What is trained.
        run: Where the files go.
        observe: Whether there is anything beside curves.
        probe_every: Optimiser steps between two measurements of the gradients through time; 0: none.
    """
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
    callbacks: list[Callback] = [RandomStates(), best, last, LearningRateMonitor(), BaselineCurves()]
    if observe and probe_every:
        callbacks.append(GradientsThroughTime(probe_every, run.gradients))
    if observe:
        callbacks.append(Observe())  # the last: what the others do after a batch is not time spent waiting for data
    return callbacks


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
    """Write the configuration to ``RUN/config.yaml``, without the run directory, so that it can be run again."""

    def __init__(self, *args: Any, run: RunDirectory) -> None:
        super().__init__(*args)
        self.save_to_log_dir = False  # save_config below decides where
        self.run = run

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = self.config.clone()
        config.run_dir = None
        write_text(self.run.config, self.parser.dump(config, skip_unset=False))
