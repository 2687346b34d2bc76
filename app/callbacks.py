"""What every run of ``fit`` does beside training."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.cli import SaveConfigCallback
from torch import Tensor

from app.baselines import BaselineCurves
from app.observe import Observe
from app.random_states import RandomStates
from app.run import RunDirectory, write_text
from app.tasks import Task


def run_callbacks(task: Task, run: RunDirectory, observe: bool) -> list[Callback]:
    """Checkpoints (best, last) with the random states, curves of baselines and learning rate, and :class:`Observe`."""
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
    beside = [LearningRateMonitor(), BaselineCurves(), *([Observe()] if observe else [])]
    return [RandomStates(), best, last, *beside]


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
