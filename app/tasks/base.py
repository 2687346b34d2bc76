"""The base class of all tasks: training, validation and test steps, logging, optimizers and hyperparameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pytorch_lightning import Callback, LightningModule
from torch import Tensor, nn
from torch.optim import Adam
from typing_extensions import Self

from app.callbacks.averaging import AveragedWeights
from app.errors import UserError
from app.optim.parameter_groups import OptimizerFactory, optimizer_by_role
from app.optim.schedules import LRSchedule, make_schedule
from app.plots.tensorboard import Board
from app.runs.checkpoint_files import INSTANTIATOR, check_classes, read_checkpoint
from app.runs.lightning_internals import is_attached, set_hyperparameters
from cells import Cell, follow_optimizer
from cells.registry import class_path
from datamodules import Batch

CellFactory = Callable[[int, int], Cell]
Part = Literal["train", "validation", "test", "predict", "probe"]


@dataclass(frozen=True)
class StepOutput:
    """The result of a task on one batch.

    Attributes:
        loss: Mean loss over ``weight`` elements. Training minimizes it, and it is logged.
        outputs: Outputs of the model, for :meth:`Task.show_batch`.
        weight: Number of sequences, frames or words that ``loss`` is the mean of.
        metrics: Further means to log, by name, each with the number of elements that it is the mean of.
        penalties: Regularization terms, which training adds to the loss and which are not logged.
    """

    loss: Tensor
    outputs: Any
    weight: int
    metrics: Mapping[str, tuple[Tensor, int]] = field(default_factory=dict)
    penalties: Sequence[Tensor] = ()


class Task(LightningModule):
    """A problem that any cell can be trained on.

    A subclass implements :meth:`shared_step`. The base class makes the training, validation and test steps of it, logs
    the metrics, and weights the losses of several processes.

    Args:
        optimizer: Called with the parameters; returns the optimizer.
        lr_schedule: Learning rate over the whole run: ``constant``; ``one_cycle``, which rises to the optimizer's
            learning rate and falls to almost 0 (torch.optim.lr_scheduler.OneCycleLR); or ``cosine``, which falls to 0
            along half a cosine.
        orthogonal_optimizer: Called with the parameters whose role is ``orthogonal``; returns a separate optimizer for
            them. None: ``optimizer`` gets them too. It is not called if the cell has no such parameters.

    Attributes:
        required_sizes: Arguments that the command line takes from the data (``DataModule.provided_sizes``).
        batch_dimensions: Tensors that every batch must contain, with their numbers of dimensions.
        training_arguments: Arguments that do not change what a trained model computes; an evaluation may change them.
        resumable_arguments: Arguments that ``fit --resume`` may change; none by default.
        monitor: Name of the validation metric that selects the best checkpoint.
        mode: Whether the best value of ``monitor`` is its ``min`` or its ``max``.
        supports_probing: Whether :meth:`probe_loss` can be called.
    """

    required_sizes: ClassVar[tuple[str, ...]] = ("input_size",)
    batch_dimensions: ClassVar[tuple[tuple[str, int], ...]] = ()
    training_arguments: ClassVar[tuple[str, ...]] = ("optimizer", "orthogonal_optimizer", "lr_schedule")
    resumable_arguments: ClassVar[tuple[str, ...]] = ()
    monitor: str
    mode: Literal["min", "max"]
    supports_probing: ClassVar[bool] = True

    def __init__(
        self,
        optimizer: OptimizerFactory = Adam,
        lr_schedule: LRSchedule = "constant",
        orthogonal_optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        self.make_optimizer = optimizer
        self.make_orthogonal_optimizer = orthogonal_optimizer
        self.lr_schedule = lr_schedule

    def shared_step(self, batch: Batch, part: Part) -> StepOutput:
        """Return loss, outputs and metrics of a batch. Every task implements this method.

        Args:
            batch: A batch of the data module.
            part: What the batch is for. Metrics are logged for ``train``, ``validation`` and ``test``. ``predict``
                and ``probe`` must work without logging, and ``probe`` without a trainer.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement shared_step(batch, part)")

    def check_batch(self, batch: Batch) -> None:
        """Check that the data module gives the batches that the task needs.

        Raises:
            UserError: with the tensor that is missing or has another number of dimensions.
        """
        for name, dimensions in self.batch_dimensions:
            found = f"{batch[name].dim()} dimensions" if name in batch else "none"
            if found != f"{dimensions} dimensions":
                raise UserError(
                    f"{type(self).__name__} needs batches whose {name} have {dimensions} dimensions, but those of the "
                    f"data have {found}. Choose another --model or --data."
                )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.check_batch(batch)
        step = self.shared_step(batch, "train")
        self.log_step("train", step)
        loss = self.balanced(step.loss, step.weight)
        for penalty in step.penalties:
            loss = loss + penalty
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        self.check_batch(batch)
        step = self.shared_step(batch, "validation")
        self.log_step("validation", step)
        return step.outputs

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.check_batch(batch)
        self.log_step("test", self.shared_step(batch, "test"))

    def probe_loss(self, batch: Batch) -> Tensor:
        """Return the loss of one batch without penalties, without logging and without a trainer.

        :mod:`app.diagnostics.probe` calls it on a copy of the task in float64 to measure gradients through time.
        """
        return self.shared_step(batch, "probe").loss

    def balanced(self, loss: Tensor, weight: int) -> Tensor:
        """Return the loss scaled such that the mean over the processes is the mean over all elements.

        DDP averages the gradients of the processes, which may hold different numbers of elements. Each loss is
        therefore multiplied by ``weight`` / (mean weight of the processes).
        """
        if not is_attached(self) or self.trainer.world_size == 1:
            return loss
        total = cast("Tensor", self.trainer.strategy.reduce(loss.new_tensor(weight), reduce_op="sum"))
        return loss * (weight * self.trainer.world_size / total)

    @property
    def metric_dtype(self) -> torch.dtype:
        """The dtype of metrics. In float64 the mean over an epoch does not depend on the batch size."""
        return torch.float32 if self.device.type == "mps" else torch.float64  # Apple's GPUs have no float64

    def log_step(self, part: Part, step: StepOutput) -> None:
        """Log the loss and the metrics of a batch."""
        self.log_part(part, step.weight, loss=step.loss)
        for name, (mean, weight) in step.metrics.items():
            self.log_part(part, weight, **{name: mean})

    def log_part(self, part: Part, weight: int, **metrics: Tensor) -> None:
        """Log metrics as ``PART/NAME``, averaged over the epoch.

        The progress bar shows the latest training batch and the latest validation.

        Args:
            part: The data split of the batch.
            weight: Number of elements of the batch: its weight in the average.
            **metrics: Means over the batch.
        """
        if part == "train":
            self.log_dict(dict(metrics), prog_bar=True, logger=False)
        # the mean of no elements is NaN, which a weight of 0 would not remove from the sum
        means = {f"{part}/{name}": mean.to(self.metric_dtype) if weight else 0.0 for name, mean in metrics.items()}
        self.log_dict(
            means,
            on_step=False,
            on_epoch=True,
            prog_bar=part == "validation",
            # a tensor, because Lightning truncates the mean of integers over processes
            batch_size=torch.tensor(weight, dtype=self.metric_dtype),  # type: ignore[arg-type]
            sync_dist=True,
        )

    def configure_callbacks(self) -> list[Callback]:
        return [AveragedWeights()]

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_by_role(self, self.make_optimizer, self.make_orthogonal_optimizer)
        follow_optimizer(self, optimizer)  # cells that rebase an orthogonal weight count the optimizer's steps
        if self.lr_schedule == "constant":
            return optimizer
        scheduler = make_schedule(self.lr_schedule, optimizer, self._total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _total_steps(self) -> int:
        """Return the number of optimizer steps of the whole run."""
        estimated = self.trainer.estimated_stepping_batches
        if estimated == inf:
            raise UserError(f"lr_schedule {self.lr_schedule} needs --trainer.max_epochs or --trainer.max_steps")
        if estimated > 0:
            return int(estimated)
        if not hasattr(self.trainer.datamodule, "batches_in_epochs"):  # type: ignore[attr-defined]
            return 1  # the limits of the trainer allow no step, and schedules need at least one
        # Lightning cannot count the batches of a stream with random windows; its data module can
        accumulate = self.trainer.accumulate_grad_batches
        batches = self.trainer.datamodule.batches_in_epochs(self.trainer.max_epochs)  # type: ignore[attr-defined]
        return sum(ceil(count / accumulate) for count in batches)

    def keep_hyperparameters(self, cell: Cell, **arguments: Any) -> None:
        """Store the arguments of this task as plain data, so that ``load_from_checkpoint`` rebuilds it.

        Plain data load with ``weights_only=True``. The cell and the optimizers are described by the objects that their
        factories made, so classes, partials and lambdas all serve as factories.

        Args:
            cell: The cell.
            **arguments: Further arguments of the task's constructor.
        """
        hyperparameters = {
            "cell": {"class_path": class_path(type(cell)), "init_args": cell.init_args},
            **arguments,
            "optimizer": _describe(self.make_optimizer),
            "orthogonal_optimizer": self.make_orthogonal_optimizer and _describe(self.make_orthogonal_optimizer),
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

    def metrics_from_loss(self, loss: float) -> dict[str, float]:
        """Return the metrics that follow from a loss alone, by name."""
        return {"loss": loss}

    def prediction_table(self, predictions: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """Convert the results of ``predict_step`` to the columns of the table that ``predict`` writes."""
        return predictions

    def prediction_summary(self, predictions: Sequence[dict[str, Any]]) -> str:
        """Return one line that ``predict`` prints about its table; nothing by default."""
        return ""

    def show_batch(self, board: Board, batch: Batch, outputs: Any, batch_idx: int) -> None:
        """Show figures of a validation batch, or collect data for :meth:`show_epoch`. Does nothing by default.

        All processes call it after the validation step, in about ten validations of a run.

        Args:
            board: Where to show them.
            batch: The batch.
            outputs: ``outputs`` of :meth:`shared_step`.
            batch_idx: Index of the batch in this validation; 0 for the first.
        """

    def show_epoch(self, board: Board) -> None:
        """Show figures of a whole validation, after its last batch, in all processes. Does nothing by default."""


def _describe(factory: OptimizerFactory) -> dict[str, Any]:
    """Return class path and arguments of the optimizer that ``factory`` makes."""
    optimizer = factory([nn.Parameter(torch.zeros(1))])
    accepted = inspect.signature(type(optimizer)).parameters
    arguments = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    return {"class_path": class_path(type(optimizer)), "init_args": arguments}
