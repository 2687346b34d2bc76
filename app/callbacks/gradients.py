"""The gradient that reaches each time step, measured while a run goes on.

Shapes: N measurements, T time.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from app.callbacks.monitor import showing
from app.diagnostics.probe import Measurement, Probe, slope, vanishing_ratio
from app.plots.gradient_figures import history_picture, profile_picture
from app.plots.tensorboard import Board
from app.tasks import Task
from cells.analysis.dynamics import dynamics
from datamodules import DataModule
from datamodules.files import replacing

NAME = "gradient_through_time"
DRAWING, FIRST = 0.01, 1.0  # share of the time of a run that may go into pictures before its end; seconds of the first


class History:
    """The measurements of a run.

    Attributes:
        steps: Optimiser steps done before each.
        probe_loss: The loss on the probe.
        train_loss: The mean loss of the training batches since the measurement before; NaN for the first.
        norms: Norms at each time step, by ``CELL/h``, ``CELL/x``, ..: see
            :class:`app.diagnostics.probe.Measurement`.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.probe_loss: list[float] = []
        self.train_loss: list[float] = []
        self.norms: dict[str, list[np.ndarray]] = {}

    def add(self, step: int, train_loss: float, found: Measurement) -> None:
        """Append a measurement."""
        self.steps.append(step)
        self.train_loss.append(train_loss)
        self.probe_loss.append(found.loss)
        for name, norms_T in found.norms.items():
            self.norms.setdefault(name, []).append(norms_T)

    def of_cell(self, cell: str) -> dict[str, np.ndarray]:
        """Norms of one cell, of shape (N, T), by ``h``, ``x``, .."""
        of = {name.rpartition("/")[::2]: norms for name, norms in self.norms.items()}
        return {what: np.stack(norms) for (name, what), norms in of.items() if name == cell}

    @property
    def cells(self) -> list[str]:
        """Names of the cells."""
        return list(dict.fromkeys(name.rpartition("/")[0] for name in self.norms))

    def save(self, path: Path) -> None:
        """Write everything as arrays (.npz): ``steps``, ``probe_loss``, ``train_loss`` (N,) and norms (N, T)."""
        arrays = {name: np.stack(norms) for name, norms in self.norms.items()}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                steps=np.array(self.steps),
                probe_loss=np.array(self.probe_loss),
                train_loss=np.array(self.train_loss),
                **arrays,  # type: ignore[arg-type]  # savez's own options are not among the names
            )

    @classmethod
    def load(cls, path: Path, before: float = float("inf")) -> History:
        """What :meth:`save` wrote, up to the step ``before``, which is left out."""
        history = cls()
        with np.load(path) as arrays:
            kept = arrays["steps"] < before
            history.steps, history.probe_loss, history.train_loss = (
                arrays[name][kept].tolist() for name in ("steps", "probe_loss", "train_loss")
            )
            history.norms = {name: list(arrays[name][kept]) for name in arrays.files if "/" in name}
        return history


class GradientsThroughTime(Callback):
    """Measure ||dL/dh_t||, ||dL/dx_t|| and those of the other parts of the state, without changing the run.

    The first sequences of the validation data are the probe (:class:`app.diagnostics.probe.Probe`). It is measured
    before the first optimiser step and after every ``every`` steps, and TensorBoard gets the vanishing ratio and the
    slope at once. Pictures of all measurements with the losses under them, of the first and the latest profile, and
    the numbers of the cell's state (:class:`cells.analysis.dynamics.Dynamics`) come with the pictures of the task as
    long as they take no more than a hundredth of the time, and at the end. The arrays are then written to ``file``
    (:meth:`History.save`); a run that goes on goes on with them.

    Args:
        every: Optimiser steps between two measurements.
        file: The .npz file of the arrays.
    """

    def __init__(self, every: int, file: Path) -> None:
        self.every = every
        self.file = file
        self.probe: Probe | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        self.probe = None
        if not trainer.is_global_zero or not isinstance(pl_module, Task) or not isinstance(data, DataModule):
            return
        if type(pl_module).probe_loss is Task.probe_loss:
            return  # the task is not to be looked into
        self.probe = Probe.of(data)
        resumes = trainer.global_step > 0 and self.file.exists()
        self.history = History.load(self.file, before=trainer.global_step) if resumes else History()
        self.losses: list[Tensor] = []
        self.start, self.drawing, self.latest = time.monotonic(), 0.0, FIRST
        self.shown = 0  # measurements that are in pictures and in the file
        self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.probe is None:
            return
        self.losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)  # which Lightning divided by
        if trainer.global_step % self.every == 0 and trainer.global_step > self.history.steps[-1]:
            self._measure(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is None or not showing(trainer):
            return
        if self.drawing + self.latest <= DRAWING * (time.monotonic() - self.start):
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is not None and self.shown < len(self.history.steps):
            self._show(trainer, pl_module)

    def _measure(self, trainer: Trainer, task: LightningModule) -> None:
        assert self.probe is not None
        assert isinstance(task, Task)
        train_loss = torch.stack(self.losses).mean().item() if self.losses else float("nan")
        self.losses = []
        self.history.add(trainer.global_step, train_loss, self.probe.measure(task))
        board = Board(trainer)
        for cell in self.history.cells:
            of = f" of {cell}" if len(self.history.cells) > 1 else ""
            latest_T = self.history.norms[f"{cell}/h"][-1]
            board.scalar(f"{NAME}/vanishing_ratio{of}", vanishing_ratio(latest_T))
            board.scalar(f"{NAME}/slope{of}", slope(latest_T))

    def _show(self, trainer: Trainer, task: LightningModule) -> None:
        assert self.probe is not None
        assert isinstance(task, Task)
        begin = time.monotonic()
        self.shown = len(self.history.steps)
        self.history.save(self.file)
        board = Board(trainer)
        for cell in self.history.cells:
            norms = self.history.of_cell(cell)
            losses = {"probe": self.history.probe_loss, "training": self.history.train_loss}
            board.figure(f"{NAME}/{cell}", history_picture(norms, self.history.steps, losses))
            profiles = {
                f"step {self.history.steps[index]}": {what: norms_NT[index] for what, norms_NT in norms.items()}
                for index in (0, -1)
            }
            board.figure(f"{NAME}/{cell}_latest", profile_picture(profiles))
        with self.probe.look(task) as (_, records):
            for cell, record in records.items():
                of = f" of {cell}" if len(records) > 1 else ""
                for name, value in dynamics(record, starts=2).numbers().items():
                    if math.isinf(value):  # a half-life, of which a chart shows the length of the sequence
                        value = len(record.outputs)
                    board.scalar(f"dynamics/{name}{of}", value)
        self.latest = time.monotonic() - begin
        self.drawing += self.latest
