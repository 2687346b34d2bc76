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
    then write the checkpoint (:class:`app.callbacks.checkpoints.LastCheckpoint`) and stop together.

    A second signal ends a process immediately. Python calls signal handlers in the main thread only, which may be
    blocked in a collective operation while another process does not respond. Python's wakeup file descriptor receives
    the number of each signal even then, and a thread reads it.

    Attributes:
        requested: The signal that the processes agreed on, or 0.
        saved: Whether the checkpoint has been written since then.
        checkpointed: Whether any checkpoint has been written.
    """

    def __init__(self) -> None:
        self.requested = 0
        self.saved = self.checkpointed = False
        self._received = 0
        self._before: dict[int, Any] = {}
        self._wakeup = self._wakeup_before = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # Python requires it
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
            reading, self._wakeup = os.pipe()
            os.set_blocking(self._wakeup, False)  # Python requires it
            self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
            threading.Thread(target=_end_at_second_signal, args=(reading,), daemon=True).start()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._leave(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._agree(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)
        self.saved = bool(self.requested) and self.checkpointed  # of a signal after the last batch too
        self._leave(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or number

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
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._wakeup)  # ends the thread
        self._before = {}


def _end_at_second_signal(reading: int) -> None:
    """Read the numbers of signals from a pipe; report the first one, and end the process at a second one."""
    first: float | None = None
    while received := os.read(reading, 1):
        number = received[0]
        if number not in SIGNALS:
            continue
        if first is None:
            first = time.monotonic()
            name = signal.Signals(number).name
            _write(f"\n{name}: stopping after this batch with a checkpoint; a second signal ends at once\n")
        elif time.monotonic() - first > ECHO:
            _write("ended by a second signal\n")
            os._exit(128 + number)  # the main thread may be blocked, and only it may restore a default handler
    os.close(reading)


def _write(text: str) -> None:
    os.write(2, text.encode())  # not print(), whose lock a blocked main thread may hold
