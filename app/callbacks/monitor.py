"""Gradient norms, throughput and figures in TensorBoard."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from app.optim.parameter_groups import parameter_parts
from app.plots.tensorboard import Board
from app.tasks import Task
from datamodules import Batch

SHOWINGS = 10  # TensorBoard keeps at most this many images per tag


class Monitor(Callback):
    """Logs gradient norms and throughput, and lets the task show its figures.

    ``gradient_norm``: norms before clipping, of all parameters, of the parameters of each role, and of the others by
    the part of the task that they belong to.

    ``throughput``, once per epoch: training sequences per second, seconds per step, share of the time spent waiting for
    data, and peak memory so far (of the CUDA device, or of the process).

    The task shows figures (:meth:`app.tasks.Task.show_batch`, :meth:`app.tasks.Task.show_epoch`) in about ten
    validations, evenly spaced over the run and including the last one.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parts = parameter_parts(pl_module)
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips it where a run is resumed within an epoch

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients: dict[str, list[Tensor]] = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                gradients.setdefault(self.parts[name], []).append(parameter.grad)
        norms = {part: get_total_norm(tensors) for part, tensors in gradients.items()}
        norms["all"] = get_total_norm(list(norms.values()))
        pl_module.log_dict({f"gradient_norm/{part}": norm for part, norm in norms.items()})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sequences = self.steps = 0
        self.waited = 0.0
        self.start = self.waiting_since = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.waited += time.monotonic() - self.waiting_since

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.sequences += len(batch["inputs"])
        self.steps += 1
        self.waiting_since = time.monotonic()
        self.seconds = self.waiting_since - self.start  # the validation at the end of the epoch is left out

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        now = time.monotonic()  # a validation within the epoch is neither training nor waiting
        self.start += now - self.waiting_since
        self.waiting_since = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.sequences:  # 0 where a run is resumed at the end of an epoch
            rate = self.sequences / self.seconds
            pl_module.log("throughput/sequences_per_second", rate, reduce_fx="sum", sync_dist=True)
            pl_module.log("throughput/seconds_per_step", self.seconds / self.steps, sync_dist=True)
            pl_module.log("throughput/share_waiting_for_data", self.waited / self.seconds, sync_dist=True)
            peak = peak_memory(pl_module.device)
            if peak is not None:
                pl_module.log("throughput/peak_memory_MiB", peak / 2**20, reduce_fx="max", sync_dist=True)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(pl_module, Task) and shows_figures(trainer):
            pl_module.show_batch(Board(trainer), batch, outputs, batch_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, Task) and shows_figures(trainer):
            pl_module.show_epoch(Board(trainer))


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of tensors on a CUDA device, else of the process. None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # does not exist on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def shows_figures(trainer: Trainer) -> bool:
    """Return whether figures are shown in this validation: in about ten of a run, and in the last one."""
    if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not Board(trainer).enabled:
        return False
    epochs = trainer.max_epochs or 0  # 0 or -1: the number of epochs is not known
    done = trainer.current_epoch + 1
    return done >= epochs or done % -(-epochs // SHOWINGS) == 0
