"""Signals end a training after a checkpoint, the same in all processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from app.errors import Stopped

SIGNALS = tuple(  # Ctrl-C; what clusters and containers send before they kill; what SLURM is asked to send before that
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
ECHO = 2.0  # seconds within which a signal is the same one again: torchrun passes on what the terminal sends to all


class StopOnSignal(Callback):
    """End the training after the present batch if any of its processes has been sent a signal.

    A signal may reach one process, some, or all. So after each batch they agree whether there was one, and then write
    the checkpoint together (:class:`app.callbacks.checkpoints.LastCheckpoint`) and leave together. A second signal ends
    a process at once.

    Attributes:
        requested: The signal that all processes know of, or 0.
        saved: Whether the checkpoint has been written since.
    """

    def __init__(self) -> None:
        self.requested = 0
        self.saved = False
        self._received = 0
        self._time = 0.0
        self._before: dict[int, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # Python allows no other one to handle signals
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._leave(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._agree(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._received:
            self._received, self._time = number, time.monotonic()
            # not print: a handler may interrupt one
            os.write(2, f"\n{name}: a checkpoint will be written after this batch; again ends at once\n".encode())
        elif time.monotonic() - self._time > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _agree(self, trainer: Trainer) -> None:
        if trainer.world_size == 1:
            self.requested = self._received
            return
        received = torch.tensor(self._received, device=trainer.strategy.root_device)
        self.requested = int(trainer.strategy.reduce(received, reduce_op="max"))

    def _leave(self, trainer: Trainer) -> None:
        if self.saved:
            raise Stopped(self.requested, trainer.global_step)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
