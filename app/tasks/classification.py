"""Classification of whole sequences.

Shapes: B batch, T time, I input_size, H hidden_size, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from app.optim.parameter_groups import OptimizerFactory
from app.plots.figures import confusion_picture, examples_picture
from app.plots.tensorboard import Board
from app.tasks.base import CellFactory, LRSchedule, Task, last_step
from datamodules import Batch, DataModule

SHOWN = 32  # examples in a picture


class SequenceClassifier(Task):
    """One label for a sequence, read from the last step: logits = W y_T + b, trained by cross-entropy.

    Batches hold ``inputs`` (B, T, I), ``targets`` (B,), and ``lengths`` (B,) where sequences are padded.

    Args:
        cell: The recurrent cell: called with (input_size, hidden_size).
        input_size: Number of features of one step; the command line takes it from the data.
        num_classes: Number of labels; the command line takes it from the data.
        hidden_size: Number of hidden units of the cell.
        optimizer: The optimiser: called with the parameters.
        lr_schedule: constant, one_cycle or cosine over the whole run, peaking at the optimiser's learning rate.
        orthogonal_optimizer: The optimiser of the cell's orthogonal parameters, if they have one of their own.
        choose_by: What the best epoch is chosen by on the validation data; the loss tells epochs apart better where
            few examples make accuracies coarse.
    """

    required_sizes = ("input_size", "num_classes")
    training_arguments = (*Task.training_arguments, "choose_by")

    def __init__(
        self,
        cell: CellFactory,
        input_size: int,
        num_classes: int,
        hidden_size: int = 128,
        optimizer: OptimizerFactory = Adam,
        lr_schedule: LRSchedule = "constant",
        orthogonal_optimizer: OptimizerFactory | None = None,
        choose_by: Literal["accuracy", "loss"] = "accuracy",
    ) -> None:
        super().__init__(optimizer, lr_schedule, orthogonal_optimizer)
        self.monitor = f"validation/{choose_by}"
        self.mode = "max" if choose_by == "accuracy" else "min"
        self.cell = cell(input_size, hidden_size)
        self.head = nn.Linear(hidden_size, num_classes)
        self.num_classes = num_classes
        self.keep_hyperparameters(
            self.cell, input_size=input_size, num_classes=num_classes, hidden_size=hidden_size, choose_by=choose_by
        )

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits of shape (B, C) from inputs (B, T, I), read at step ``lengths`` - 1, or at the last one."""
        y_BTH, _ = self.cell(inputs)
        logits_BC: Tensor = self.head(last_step(y_BTH, lengths))
        return logits_BC

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One row a sequence: the target, the most probable label, and the probability of each label."""
        probabilities_BC = self(batch["inputs"], batch.get("lengths")).softmax(-1)
        columns = {f"probability_{label}": probabilities_BC[:, label] for label in range(self.num_classes)}
        return {"target": batch["targets"], "prediction": probabilities_BC.argmax(-1), **columns}

    def probe_loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self(batch["inputs"], batch.get("lengths")), batch["targets"])

    def observe_batch(self, board: Board, batch: Batch, outputs: Tensor, batch_idx: int) -> None:
        """Count targets and predictions, and show the first examples with what they were taken for."""
        targets, predictions = batch["targets"], outputs.argmax(-1)
        if batch_idx == 0:
            self.counts_CC = targets.new_zeros(self.num_classes, self.num_classes)
            data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
            images_BSS = data.images(batch["inputs"][:SHOWN]) if isinstance(data, DataModule) else None
            if images_BSS is not None:
                shown = targets[:SHOWN].tolist(), predictions[:SHOWN].tolist()
                board.figure("examples", examples_picture(images_BSS, *shown))
        self.counts_CC.index_put_((targets, predictions), torch.ones_like(targets), accumulate=True)

    def observe_epoch(self, board: Board) -> None:
        """Show the confusion matrix of the whole validation."""
        counts_CC = self.trainer.strategy.reduce(self.counts_CC, reduce_op="sum")
        board.figure("confusion", confusion_picture(counts_CC.cpu()))

    def measure(self, batch: Batch, part: str) -> tuple[Tensor, Tensor]:
        """(loss, logits of shape (B, C)), logged."""
        logits_BC = self(batch["inputs"], batch.get("lengths"))
        loss = F.cross_entropy(logits_BC, batch["targets"])
        accuracy = (logits_BC.argmax(-1) == batch["targets"]).to(self.metric_dtype).mean()
        self.log_part(part, len(batch["targets"]), loss=loss, accuracy=accuracy)
        return loss, logits_BC
