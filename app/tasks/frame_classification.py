"""Classification of every step of a sequence.

Shapes: B batch, T time, I input_size, H hidden_size, C classes, N steps that count.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from app.optim.parameter_groups import OptimizerFactory
from app.plots.figures import labels_picture
from app.plots.tensorboard import Board
from app.tasks.base import CellFactory, LRSchedule, Task, valid_steps
from datamodules import Batch

SHOWN = 8  # sequences in a picture


class FrameClassifier(Task):
    """A label for each step of a sequence: logits_t = W y_t + b, trained by the mean cross-entropy of all steps.

    Batches hold ``inputs`` (B, T, I), ``targets`` (B, T), ``lengths`` (B,) where sequences are padded, and ``scored``
    (B, T) where the accuracy is that of some steps only: True at these.

    Args:
        cell: The recurrent cell: called with (input_size, hidden_size).
        input_size: Number of features of one step; the command line takes it from the data.
        num_classes: Number of labels; the command line takes it from the data.
        hidden_size: Number of hidden units of the cell.
        optimizer: The optimiser: called with the parameters.
        lr_schedule: constant, one_cycle or cosine over the whole run, peaking at the optimiser's learning rate.
        orthogonal_optimizer: The optimiser of the cell's orthogonal parameters, if they have one of their own.
    """

    required_sizes = ("input_size", "num_classes")
    monitor = "validation/loss"
    mode = "min"

    def __init__(
        self,
        cell: CellFactory,
        input_size: int,
        num_classes: int,
        hidden_size: int = 128,
        optimizer: OptimizerFactory = Adam,
        lr_schedule: LRSchedule = "constant",
        orthogonal_optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(optimizer, lr_schedule, orthogonal_optimizer)
        self.cell = cell(input_size, hidden_size)
        self.head = nn.Linear(hidden_size, num_classes)
        self.num_classes = num_classes
        self.keep_hyperparameters(self.cell, input_size=input_size, num_classes=num_classes, hidden_size=hidden_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape (B, T, C) from inputs (B, T, I)."""
        y_BTH, _ = self.cell(inputs)
        logits_BTC: Tensor = self.head(y_BTH)
        return logits_BTC

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.balanced(super().training_step(batch, batch_idx), int(valid_steps(batch).sum()))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One row a scored step, sequence by sequence: its number, the target, the prediction, its probability."""
        probabilities_BTC = self(batch["inputs"]).softmax(-1)
        scored_BT = _scored(batch)
        highest_N, predictions_N = probabilities_BTC[scored_BT].max(-1)
        return {
            "step": scored_BT.nonzero()[:, 1],
            "target": batch["targets"][scored_BT],
            "prediction": predictions_N,
            "probability": highest_N,
        }

    def probe_loss(self, batch: Batch) -> Tensor:
        valid_BT = valid_steps(batch)
        return F.cross_entropy(self(batch["inputs"])[valid_BT], batch["targets"][valid_BT])

    def observe_batch(self, board: Board, batch: Batch, outputs: Tensor, batch_idx: int) -> None:
        """Show the labels of the first sequences, from the first step that is scored to the last one."""
        steps = _scored(batch)[:SHOWN].any(0).nonzero()[:, 0]
        if batch_idx > 0 or len(steps) == 0:
            return
        shown = slice(int(steps[0]), int(steps[-1]) + 1)
        labels = (batch["targets"][:SHOWN, shown].cpu(), outputs[:SHOWN, shown].argmax(-1).cpu())
        board.figure("labels", labels_picture(*labels, first_step=shown.start, num_classes=self.num_classes))

    def measure(self, batch: Batch, part: str) -> tuple[Tensor, Tensor]:
        """(loss, logits of shape (B, T, C)), logged."""
        logits_BTC, targets_BT = self(batch["inputs"]), batch["targets"]
        valid_BT, scored_BT = valid_steps(batch), _scored(batch)
        loss = F.cross_entropy(logits_BTC[valid_BT], targets_BT[valid_BT])
        right_N = logits_BTC[scored_BT].argmax(-1) == targets_BT[scored_BT]
        self.log_part(part, int(valid_BT.sum()), loss=loss)
        self.log_part(part, len(right_N), accuracy=right_N.to(self.metric_dtype).mean())
        return loss, logits_BTC


def _scored(batch: Batch) -> Tensor:
    """True (B, T) at the steps whose answers the accuracy counts."""
    return valid_steps(batch) & batch["scored"] if "scored" in batch else valid_steps(batch)
