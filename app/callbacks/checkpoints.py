"""The checkpoints of a run: ``best.ckpt``, ``last.ckpt`` and ``previous.ckpt``."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor

from app.callbacks.divergence import check_weights
from app.callbacks.signals import StopOnSignal
from app.runs.lightning_internals import accumulates_gradient, validation_follows
from app.runs.run_directory import RunDirectory
from datamodules.files import remove_unfinished, replacing


class BestCheckpoint(ModelCheckpoint):
    """Saves the best epoch by ``monitor``; of epochs with the same value, the latest.

    Ties are common for accuracies on few examples. Lightning would keep the first of the tied epochs.
    """

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        as_good = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        return trainer.strategy.reduce_boolean_decision(as_good) or super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score even if the run directory was moved; Lightning would discard it."""
        folder = str(self.dirpath)
        paths = {"best_model_path", "kth_best_model_path", "last_model_path"}
        moved = {name: _moved(value, folder) if name in paths else value for name, value in state_dict.items()}
        best = {_moved(path, folder): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**moved, "dirpath": self.dirpath, "best_k_models": best})


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` after each epoch, every ``every_n_steps`` steps, and when a signal or a limit ends training.

    Resuming from it reproduces the uninterrupted run. Within an epoch it is therefore saved only directly after an
    optimizer step that no validation follows; otherwise it is saved after the next such step. The file that it replaces
    becomes ``previous.ckpt``.

    Args:
        run: The run directory.
        stop: The callback that receives signals. Its ``saved`` is set once the checkpoint of a signal is written.
        every_n_steps: Number of optimizer steps between checkpoints within an epoch. None: only at the end of epochs.

    Attributes:
        seconds: Training time, including the time before the run was stopped and resumed.
    """

    def __init__(self, run: RunDirectory, stop: StopOnSignal, every_n_steps: int | None) -> None:
        self.run = run
        self.stop = stop
        self.every_n_steps = every_n_steps
        self.due = False
        self.saved_at = -1
        self.start = time.monotonic()
        self.before = 0.0

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.monotonic()
        if trainer.is_global_zero:
            remove_unfinished(self.run.checkpoints)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_last_batch or accumulates_gradient(trainer):
            return
        ends = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        regular = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        self.due = self.due or ends or regular or bool(self.stop.requested)
        if self.due and (ends or not validation_follows(trainer)):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_last_batch or self.saved_at != trainer.global_step:  # else saved already
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        check_weights(trainer.lightning_module, trainer.global_step)
        for logger in trainer.loggers:
            logger.save()  # a resumed run does not log again what was logged before the checkpoint
        if trainer.is_global_zero and self.run.last.exists():
            with replacing(self.run.previous) as temporary:  # a link or copy, so last.ckpt always exists
                try:
                    os.link(self.run.last, temporary)
                except OSError:  # the file system does not support links
                    shutil.copyfile(self.run.last, temporary)
        trainer.save_checkpoint(self.run.last, weights_only=False)
        self.due, self.saved_at = False, trainer.global_step
        self.stop.saved, self.stop.checkpointed = bool(self.stop.requested), True


def _moved(path: str, folder: str) -> str:
    """Return ``path`` in another folder; an empty path stays empty."""
    return os.path.join(folder, os.path.basename(path)) if path else path  # noqa: PTH118, PTH119  # Lightning stores strings
