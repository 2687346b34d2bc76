"""Signals that stop a training after a checkpoint."""

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

SIGNALS = tuple(  # from Ctrl-C; from clusters and containers before they kill; from SLURM with --signal=USR1
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
ECHO = 2.0  # seconds in which a second signal counts as the first: torchrun repeats signals of the terminal


class StopOnSignal(Callback):
    """Stops the training after the current batch if any process received a signal.

    A signal may reach any number of the processes. After each batch the processes agree on whether one arrived. They
    then write the checkpoint (:class:`app.callbacks.checkpoints.LastCheckpoint`) and stop together. A second signal
    ends a process immediately.

    Attributes:
        requested: The signal that the processes agreed on, or 0.
        saved: Whether the checkpoint has been written since then.
    """

    def __init__(self) -> None:
        self.requested = 0
        self.saved = False
        self._received = 0
        self._time = 0.0
        self._before: dict[int, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # Python requires it
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
            # a signal handler must not call print(), which it may have interrupted
            message = f"\n{name}: stopping after this batch with a checkpoint; a second signal ends at once\n"
            os.write(2, message.encode())
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
