"""What TensorBoard shows beside loss and accuracy."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from app.optim.parameter_groups import parameter_parts
from app.plots.tensorboard import Board
from app.tasks import Task
from datamodules import Batch

SHOWINGS = 10  # TensorBoard keeps no more pictures of a kind than this


class Observe(Callback):
    """Gradient norms, throughput, and what the task itself has to show.

    ``gradient_norm``: before clipping, of all parameters, of those of each role, and of the others by the part of the
    task that they belong to; ``throughput``, over an epoch: training sequences a second, seconds a step, the share of
    the time spent waiting for data, and the peak of memory so far (of the device, or of the process). The task shows
    its own pictures (:meth:`app.tasks.Task.observe_batch`, :meth:`app.tasks.Task.observe_epoch`) at some ten
    validations, evenly spaced over the run, the last among them.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parts = parameter_parts(pl_module)
        self.on_train_epoch_start(trainer, pl_module)  # not called where a resumed training begins within an epoch

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        squares: dict[str, list[Tensor]] = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                squares.setdefault(self.parts[name], []).append(parameter.grad.detach().float().square().sum())
        sums = {part: torch.stack(terms).sum() for part, terms in squares.items()}
        sums["all"] = torch.stack(list(sums.values())).sum()
        pl_module.log_dict({f"gradient_norm/{part}": total.sqrt() for part, total in sums.items()})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sequences = self.steps = 0
        self.waited = 0.0
        self.start = self.waits_since = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.waited += time.monotonic() - self.waits_since

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.sequences += len(batch["inputs"])
        self.steps += 1
        self.waits_since = time.monotonic()
        self.seconds = self.waits_since - self.start  # without the validation, which comes before the epoch ends

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        now = time.monotonic()  # a validation within an epoch counts neither as training nor as waiting
        self.start += now - self.waits_since
        self.waits_since = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.sequences:  # none where a training is resumed at the end of an epoch
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
        if isinstance(pl_module, Task) and showing(trainer):
            pl_module.observe_batch(Board(trainer), batch, outputs, batch_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, Task) and showing(trainer):
            pl_module.observe_epoch(Board(trainer))


def peak_memory(device: torch.device) -> int | None:
    """The most memory in use so far, in bytes: tensors on a CUDA device, else the whole process; None if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def showing(trainer: Trainer) -> bool:
    """Whether pictures are shown in this validation: in some ten, evenly spaced, the last among them."""
    if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not Board(trainer).there:
        return False
    epochs = trainer.max_epochs or 0  # 0 and -1: no end is known
    done = trainer.current_epoch + 1
    return done >= epochs or done % -(-epochs // SHOWINGS) == 0
