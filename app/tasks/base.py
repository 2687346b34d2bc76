"""What all tasks share: the optimiser, the learning-rate schedule, and hyperparameters that are plain data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from cells import Cell, follow_optimizer
from cells.registry import class_path

CellFactory = Callable[[int, int], Cell]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
LRSchedule = Literal["constant", "one_cycle", "cosine"]


class Task(LightningModule):
    """A problem that any cell can be trained on.

    Args:
        optimizer: Called with the parameters.
        lr_schedule: ``constant``; ``one_cycle``: up to the optimiser's learning rate and down to nearly 0 over the
            whole run (torch.optim.lr_scheduler.OneCycleLR); ``cosine``: down to 0 along a half cosine over the run.

    Attributes:
        monitor: Name of the validation metric that chooses the best checkpoint and sums up a run.
        mode: Whether ``monitor`` is to be ``max`` or ``min``.
    """

    monitor: ClassVar[str]
    mode: ClassVar[Literal["min", "max"]]

    def __init__(self, optimizer: OptimizerFactory, lr_schedule: LRSchedule) -> None:
        super().__init__()
        self.make_optimizer = optimizer
        self.lr_schedule = lr_schedule

    def keep_hyperparameters(self, cell: Cell, **sizes: Any) -> None:
        """Record what rebuilds this task as plain data, the same whether it was built in Python or by the command line.

        Checkpoints then load with ``weights_only=True`` and by ``load_from_checkpoint``. The cell and the optimiser
        are described by what was built, so a class, a partial and a lambda all serve as factories.

        Args:
            cell: The cell that was built.
            **sizes: The other own arguments of the task.
        """
        optimizer = self.make_optimizer([nn.Parameter(torch.zeros(1))])
        accepted = inspect.signature(type(optimizer)).parameters
        hyperparameters = {
            "cell": {"class_path": class_path(type(cell)), "init_args": cell.init_args},
            **sizes,
            "optimizer": {
                "class_path": class_path(type(optimizer)),
                "init_args": {name: value for name, value in optimizer.defaults.items() if name in accepted},
            },
            "lr_schedule": self.lr_schedule,
            "_instantiator": "pytorch_lightning.cli.instantiate_module",  # what load_from_checkpoint builds it with
        }
        self._set_hparams(hyperparameters)  # save_hyperparameters would take what the command line was given instead

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        follow_optimizer(self, optimizer)  # cells that move their base count the optimiser's steps
        scheduler: LRScheduler
        if self.lr_schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        if self.lr_schedule == "one_cycle":
            scheduler = OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps)
        else:
            scheduler = CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

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
        averages = {f"{part}/{name}": value for name, value in metrics.items()}
        self.log_dict(
            averages,
            on_step=False,
            on_epoch=True,
            prog_bar=part == "validation",
            batch_size=weight,
            sync_dist=True,
        )
