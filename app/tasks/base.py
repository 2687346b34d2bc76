"""What all tasks share: the optimiser, the learning-rate schedule, and hyperparameters that are plain data.

Shapes: B batch, T time, H hidden_size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pytorch_lightning import Callback, LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from typing_extensions import Self

from app.optim.averaging import AveragedWeights
from app.optim.parameter_groups import OptimizerFactory, optimizer_by_role
from app.plots.tensorboard import Board
from app.runs.checkpoint_files import INSTANTIATOR, check_classes, read_checkpoint
from app.runs.lightning_internals import is_attached, set_hyperparameters
from cells import Cell, follow_optimizer
from cells.registry import class_path
from datamodules import Batch

CellFactory = Callable[[int, int], Cell]
LRSchedule = Literal["constant", "one_cycle", "cosine"]


class Task(LightningModule):
    """A problem that any cell can be trained on.

    Args:
        optimizer: Called with the parameters.
        lr_schedule: ``constant``; ``one_cycle``: up to the optimiser's learning rate and down to nearly 0 over the
            whole run (torch.optim.lr_scheduler.OneCycleLR); ``cosine``: down to 0 along a half cosine over the run.
        orthogonal_optimizer: Called with the parameters whose role is ``orthogonal``, which ``optimizer`` then does not
            get; None, or a cell that has no such parameters, leaves them all to ``optimizer``.

    Attributes:
        required_sizes: Arguments that the command line takes from the data (``DataModule.provided_sizes``).
        training_arguments: Arguments that do not change what a trained model computes; an evaluation may change them.
        resumable_arguments: Arguments that ``fit --resume`` may change; none by default.
        monitor: Name of the validation metric that chooses the best checkpoint and sums up a run.
        mode: Whether ``monitor`` is to be ``max`` or ``min``.
    """

    required_sizes: ClassVar[tuple[str, ...]] = ("input_size",)
    training_arguments: ClassVar[tuple[str, ...]] = ("optimizer", "orthogonal_optimizer", "lr_schedule")
    resumable_arguments: ClassVar[tuple[str, ...]] = ()
    monitor: str
    mode: Literal["min", "max"]

    def __init__(
        self, optimizer: OptimizerFactory, lr_schedule: LRSchedule, orthogonal_optimizer: OptimizerFactory | None = None
    ) -> None:
        super().__init__()
        self.make_optimizer = optimizer
        self.make_orthogonal_optimizer = orthogonal_optimizer
        self.lr_schedule = lr_schedule

    def keep_hyperparameters(self, cell: Cell, **sizes: Any) -> None:
        """Record what rebuilds this task as plain data, the same whether it was built in Python or by the command line.

        Checkpoints then load with ``weights_only=True`` and by ``load_from_checkpoint``. The cell and the optimiser
        are described by what was built, so a class, a partial and a lambda all serve as factories.

        Args:
            cell: The cell that was built.
            **sizes: The other own arguments of the task.
        """
        hyperparameters = {
            "cell": {"class_path": class_path(type(cell)), "init_args": cell.init_args},
            **sizes,
            "optimizer": _description(self.make_optimizer),
            "orthogonal_optimizer": self.make_orthogonal_optimizer and _description(self.make_orthogonal_optimizer),
            "lr_schedule": self.lr_schedule,
            "_instantiator": INSTANTIATOR,
        }
        set_hyperparameters(self, hyperparameters)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a task as Lightning does, from a checkpoint that names only cells and optimizers.

        Raises:
            UserError: if the checkpoint is damaged, or names another class or function.
        """
        check_classes(read_checkpoint(Path(checkpoint_path))["hyper_parameters"])
        return super().load_from_checkpoint(checkpoint_path, *args, **{"weights_only": True, **kwargs})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.measure(batch, "train")[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.measure(batch, "validation")[1]

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.measure(batch, "test")

    def measure(self, batch: Batch, part: str) -> tuple[Tensor, Tensor]:
        """The loss on a batch of ``part`` (``train``, ``validation`` or ``test``), its metrics logged, and the outputs.

        The three steps are made of it, but in a task that has its own.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither measure() nor steps of its own")

    def configure_callbacks(self) -> list[Callback]:
        """What the optimiser needs to be told in a training."""
        return [AveragedWeights()]

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_by_role(self, self.make_optimizer, self.make_orthogonal_optimizer)
        follow_optimizer(self, optimizer)  # cells that move their base count the optimiser's steps
        scheduler: LRScheduler
        if self.lr_schedule == "constant":
            return optimizer
        steps = self._total_steps()
        if self.lr_schedule == "one_cycle":
            peaks = [group["lr"] for group in optimizer.param_groups]
            cycled = not optimizer.defaults.keys().isdisjoint(("momentum", "betas"))
            scheduler = OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=cycled)
        else:
            scheduler = CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        steps = int(self.trainer.estimated_stepping_batches)
        if steps > 0:
            return steps
        # Lightning does not know how many batches there will be; a stream does
        accumulate = self.trainer.accumulate_grad_batches
        batches = self.trainer.datamodule.batches_in_epochs(self.trainer.max_epochs)  # type: ignore[attr-defined]
        return sum(ceil(count / accumulate) for count in batches)

    def figures(self, loss: float) -> dict[str, float]:
        """What a loss amounts to in the metrics of this task, as far as it decides them."""
        return {"loss": loss}

    def readable(self, predictions: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """What ``predict_step`` returned as the columns of the table that ``predict`` writes; by default unchanged."""
        return predictions

    def sum_up(self, predictions: Sequence[dict[str, Any]]) -> str:
        """What ``predict`` says of its table, beside the number of rows, in a line; nothing by default."""
        return ""

    def balanced(self, loss: Tensor, weight: int) -> Tensor:
        """A training loss that is the mean over ``weight`` things, such as frames, for several processes.

        Their gradients are averaged. With each loss multiplied by the part of all the things that its process has, and
        by the number of processes, the average is the gradient of the mean over all of them.
        """
        if not is_attached(self) or self.trainer.world_size == 1:
            return loss
        total = cast("Tensor", self.trainer.strategy.reduce(loss.new_tensor(weight), reduce_op="sum"))
        return loss * (weight * self.trainer.world_size / total)

    @property
    def metric_dtype(self) -> torch.dtype:
        """Of sums over an epoch, which are not to depend on how it is cut into batches."""
        return torch.float32 if self.device.type == "mps" else torch.float64  # Apple's GPUs have no float64

    def log_part(self, part: str, weight: int, **metrics: Tensor) -> None:
        """Log metrics of ``part`` (``train``, ``validation`` or ``test``): averages over an epoch, one curve each.

        The progress bar shows the last training batch and the last validation.

        Args:
            part: What the batch belongs to.
            weight: What the metrics of this batch count for in the average: sequences, frames or tokens.
            **metrics: Means over the batch.
        """
        if part == "train":
            self.log_dict(dict(metrics), prog_bar=True, logger=False)
        averages = {f"{part}/{name}": value.to(self.metric_dtype) for name, value in metrics.items()}
        self.log_dict(
            averages,
            on_step=False,
            on_epoch=True,
            prog_bar=part == "validation",
            # a tensor, because Lightning rounds the mean of integers over the processes down
            batch_size=torch.tensor(weight, dtype=self.metric_dtype),  # type: ignore[arg-type]
            sync_dist=True,
        )

    def probe_loss(self, batch: Batch) -> Tensor | None:
        """The loss on one batch, from the initial state of the cells; nothing is logged, and no trainer is needed.

        What looks into the cells (:mod:`app.diagnostics.probe`) calls it on a copy of the task in float64. None, the
        default, says that the task is not to be looked into.
        """
        return None

    def observe_batch(self, board: Board, batch: Batch, outputs: Any, batch_idx: int) -> None:
        """Show, or collect for :meth:`observe_epoch`, what a validation batch gave; nothing by default.

        Called after the validation step, in all processes, in validations whose pictures are shown (some ten in a run).
        Batch 0 begins a validation.

        Args:
            board: Where to show it.
            batch: The batch.
            outputs: What ``validation_step`` returned.
            batch_idx: Count of the batch in this validation, from 0.
        """

    def observe_epoch(self, board: Board) -> None:
        """Show what a validation gave, after its last batch, in all processes; nothing by default."""


def valid_steps(batch: Batch) -> Tensor:
    """True (B, T) at the steps before ``lengths``; everywhere if there are no ``lengths``."""
    count, steps = batch["inputs"].shape[:2]
    lengths_B = batch.get("lengths", torch.tensor([steps] * count)).to(batch["inputs"].device)
    return torch.arange(steps, device=lengths_B.device) < lengths_B[:, None]


def last_step(y_BTH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """What (B, H) stands at step ``lengths`` - 1 of each row, or at the last one."""
    if lengths_B is None:
        return y_BTH[:, -1]
    return y_BTH[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1]


def _description(factory: OptimizerFactory) -> dict[str, Any]:
    """Class and arguments of the optimiser that ``factory`` makes."""
    optimizer = factory([nn.Parameter(torch.zeros(1))])
    accepted = inspect.signature(type(optimizer)).parameters
    arguments = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    return {"class_path": class_path(type(optimizer)), "init_args": arguments}
