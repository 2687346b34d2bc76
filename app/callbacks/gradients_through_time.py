"""Measurement of gradients through time during a run."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from app.callbacks.gradient_history import History
from app.callbacks.monitor import shows_figures
from app.diagnostics.probe import Probe, slope, vanishing_ratio
from app.plots.gradient_figures import history_figure, profile_figure
from app.plots.tensorboard import Board
from app.tasks import Task
from cells.analysis.dynamics import dynamics
from datamodules import DataModule

GROUP = "gradient_through_time"
MAX_SHARE = 0.01  # share of the training time that figures may take before the end of the training
FIRST_ESTIMATE = 1.0  # seconds that the first figures are expected to take


class GradientsThroughTime(Callback):
    """Measures ||dL/dh_t||, ||dL/dx_t|| and the same of other parts of the state, without changing the training.

    The probe is the first sequences of the validation set (:class:`app.diagnostics.probe.Probe`). The callback
    measures before the first optimizer step and after every ``every`` steps, and logs the vanishing ratio and the
    slope.

    Figures of all measurements, of the first and the latest profile, and statistics of the hidden state
    (:class:`cells.analysis.dynamics.Dynamics`) are shown at validations, as long as they take at most 1 % of the time,
    and at the end of the training. The arrays are then written to ``file``. Checkpoints hold all measurements, so a
    resumed run has those of an uninterrupted one.

    Args:
        every: Number of optimizer steps between two measurements.
        file: The .npz file to write (:meth:`app.callbacks.gradient_history.History.save`).
    """

    def __init__(self, every: int, file: Path) -> None:
        self.every = every
        self.file = file

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # before a checkpoint is loaded
            self.probe: Probe | None = None
            self.history = History()
            self.losses: list[Tensor] = []  # of the training batches since the last measurement
            self.shown = 0  # number of measurements in the latest figures and in the file
            self.resumed = False  # whether the points at the step of the checkpoint are missing in TensorBoard

    def state_dict(self) -> dict[str, Any]:
        losses = torch.stack(self.losses).cpu() if self.losses else torch.empty(0)
        return {"history": self.history.state_dict(), "losses": losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = History.from_state_dict(state_dict["history"])
        self.losses = list(state_dict["losses"].unbind())
        self.resumed = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        if not trainer.is_global_zero or not isinstance(pl_module, Task) or not isinstance(data, DataModule):
            return
        if pl_module.supports_probing:
            self.probe = Probe.of(data)
            self.losses = [loss.to(pl_module.device) for loss in self.losses]
            self.start, self.drawing, self.latest = time.monotonic(), 0.0, FIRST_ESTIMATE

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is not None and not self.history.steps:  # a resumed run has measured before
            self._measure(trainer, pl_module)
        self._restore_curves(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.probe is None:
            return
        self.losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)  # Lightning divided by it
        if trainer.global_step % self.every == 0 and trainer.global_step > self.history.steps[-1]:
            self._measure(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is None or not shows_figures(trainer):
            return
        if self.drawing + self.latest <= MAX_SHARE * (time.monotonic() - self.start):
            self._show(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning skips the other hooks where a finished training is resumed for its final evaluation
        self._restore_curves(trainer)
        if self.probe is not None and self.shown < len(self.history.steps):
            self._show(trainer, pl_module)

    def _measure(self, trainer: Trainer, task: LightningModule) -> None:
        assert self.probe is not None
        assert isinstance(task, Task)
        train_loss = torch.stack(self.losses).mean().item() if self.losses else float("nan")
        self.losses = []
        self.history.add(trainer.global_step, train_loss, self.probe.measure(task))
        self._log(trainer)

    def _restore_curves(self, trainer: Trainer) -> None:
        """Log the measurement at the step of the checkpoint again: TensorBoard removes all points from that step on."""
        if self.resumed and self.probe is not None and self.history.steps[-1] == trainer.global_step:
            self._log(trainer)
        self.resumed = False

    def _log(self, trainer: Trainer) -> None:
        board = Board(trainer)
        for cell in self.history.cells:
            suffix = f" of {cell}" if len(self.history.cells) > 1 else ""
            latest_T = self.history.norms[f"{cell}/h"][-1]
            board.scalar(f"{GROUP}/vanishing_ratio{suffix}", vanishing_ratio(latest_T))
            board.scalar(f"{GROUP}/slope{suffix}", slope(latest_T))

    def _show(self, trainer: Trainer, task: LightningModule) -> None:
        assert self.probe is not None
        assert isinstance(task, Task)
        begin = time.monotonic()
        self.shown = len(self.history.steps)
        self.history.save(self.file)
        board = Board(trainer)
        self._show_figures(board)
        with self.probe.look(task) as (_, records):
            for cell, record in records.items():
                suffix = f" of {cell}" if len(records) > 1 else ""
                for name, value in dynamics(record, starts=2).numbers().items():
                    if math.isinf(value):  # a half-life: the chart shows the length of the sequence instead
                        value = len(record.outputs)
                    board.scalar(f"dynamics/{name}{suffix}", value)
        self.latest = time.monotonic() - begin
        self.drawing += self.latest

    def _show_figures(self, board: Board) -> None:
        history = self.history
        for cell in history.cells:
            norms = history.of_cell(cell)
            losses = {"probe": history.probe_loss, "training": history.train_loss}
            board.figure(f"{GROUP}/{cell}", history_figure(norms, history.steps, losses))
            profiles = {
                f"step {history.steps[index]}": {what: norms_NT[index] for what, norms_NT in norms.items()}
                for index in (0, -1)
            }
            board.figure(f"{GROUP}/{cell}_latest", profile_figure(profiles))
