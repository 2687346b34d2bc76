"""Callbacks that every run of ``fit`` uses."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.cli import SaveConfigCallback

from app.callbacks.baselines import BaselineCurves
from app.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from app.callbacks.divergence import StopOnDivergence
from app.callbacks.gradients_through_time import GradientsThroughTime
from app.callbacks.monitor import Monitor
from app.callbacks.random_states import RandomStates
from app.callbacks.running_means import RunningMeans
from app.callbacks.signals import StopOnSignal
from app.runs.configuration import dump_config
from app.runs.run_directory import RunDirectory, write_text
from app.tasks import Task


def run_callbacks(
    task: Task, run: RunDirectory, observe: bool, probe_every: int = 0, save_every: int | None = None
) -> list[Callback]:
    """Return the callbacks for checkpoints, exact resume, signals, divergence and TensorBoard.

    Args:
        task: The task.
        run: The run directory.
        observe: Whether to log gradient norms, throughput, gradients through time and figures.
        probe_every: Number of optimizer steps between two measurements of gradients through time; 0: none.
        save_every: Number of optimizer steps between checkpoints within an epoch. None: only at the end of epochs.
    """
    stop = StopOnSignal()
    best = BestCheckpoint(
        run.checkpoints,
        run.best.stem,
        monitor=task.monitor,
        mode=task.mode,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    saving = [RandomStates(), RunningMeans(), stop, StopOnDivergence(), best, LastCheckpoint(run, stop, save_every)]
    logging: list[Callback] = [LearningRateMonitor(), BaselineCurves()]
    if observe and probe_every:
        logging.append(GradientsThroughTime(probe_every, run.gradients))
    if observe:
        logging.append(Monitor())  # last, so that the time of the other callbacks does not count as waiting for data
    return [*saving, *logging]


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar without the version number, which run directories do not have."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class SaveConfig(SaveConfigCallback):
    """Writes the configuration to ``RUN/config.yaml``, and the files of the data module to the run directory."""

    def __init__(self, *args: Any, run: RunDirectory) -> None:
        super().__init__(*args)
        self.save_to_log_dir = False  # save_config() writes the file instead
        self.run = run

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        write_text(self.run.config, dump_config(self.parser, self.config))
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        for name, text in data.run_files().items():
            write_text(self.run.path / name, text)
