"""Classification of every step of a sequence.

Shapes: B batch, T time, I input_size, H features of the encoder, C classes, N scored steps.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from app.plots.figures import labels_figure
from app.plots.tensorboard import Board
from app.tasks.base import CellFactory, Part, StepOutput
from app.tasks.encoder import EncoderTask
from app.tasks.padding import valid_steps
from datamodules import Batch
from datamodules.base import IGNORED

SHOWN = 8  # sequences in a figure


class FrameClassifier(EncoderTask):
    """One label per step: logits_t = W y_t + b, trained by the mean cross-entropy of all valid steps.

    Batches hold ``inputs`` (B, T, I), ``targets`` (B, T), and ``lengths`` (B,) if the sequences are padded. If they
    hold ``scored`` (B, T), the accuracy is over the steps where it is True; the loss is over all valid steps. Targets
    of -100 count in neither.

    Args:
        cell: The recurrent cell of each layer: called with (input_size, hidden_size).
        input_size: Number of features of one step. The command line takes it from the data.
        num_classes: Number of labels. The command line takes it from the data.
        hidden_size: Number of hidden units of each layer and direction.
        **kwargs: Arguments of :class:`app.tasks.encoder.EncoderTask`.
    """

    required_sizes = ("input_size", "num_classes")
    batch_dimensions = (("inputs", 3), ("targets", 2))
    monitor = "validation/loss"
    mode = "min"

    def __init__(
        self, cell: CellFactory, input_size: int, num_classes: int, hidden_size: int = 128, **kwargs: Any
    ) -> None:
        super().__init__(cell, input_size, hidden_size, **kwargs)
        self.head = nn.Linear(self.features, num_classes)
        self.num_classes = num_classes
        self.keep_encoder(num_classes=num_classes)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits (B, T, C) for inputs (B, T, I)."""
        logits_BTC: Tensor = self.head(self.encode(inputs, lengths))
        return logits_BTC

    def shared_step(self, batch: Batch, part: Part) -> StepOutput:
        """Return the cross-entropy of the valid steps, the logits (B, T, C) and the accuracy of the scored steps."""
        logits_BTC, targets_BT = self(batch["inputs"], batch.get("lengths")), batch["targets"]
        valid_BT, scored_BT = valid_steps(batch), _scored_steps(batch)
        loss = F.cross_entropy(logits_BTC[valid_BT], targets_BT[valid_BT])
        correct_N = logits_BTC[scored_BT].argmax(-1) == targets_BT[scored_BT]
        accuracy = correct_N.to(self.metric_dtype).mean()
        counted = int((targets_BT[valid_BT] != IGNORED).sum())
        return StepOutput(loss, logits_BTC, counted, {"accuracy": (accuracy, len(correct_N))})

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return one row per scored step: its index, the target, the prediction and its probability."""
        probabilities_BTC = self(batch["inputs"], batch.get("lengths")).softmax(-1)
        scored_BT = _scored_steps(batch)
        highest_N, predictions_N = probabilities_BTC[scored_BT].max(-1)
        return {
            "step": scored_BT.nonzero()[:, 1],
            "target": batch["targets"][scored_BT],
            "prediction": predictions_N,
            "probability": highest_N,
        }

    def show_batch(self, board: Board, batch: Batch, outputs: Tensor, batch_idx: int) -> None:
        """Show the labels of the first sequences, from the first scored step to the last one."""
        steps = _scored_steps(batch)[:SHOWN].any(0).nonzero()[:, 0]
        if batch_idx > 0 or len(steps) == 0:
            return
        shown = slice(int(steps[0]), int(steps[-1]) + 1)
        labels = (batch["targets"][:SHOWN, shown].cpu(), outputs[:SHOWN, shown].argmax(-1).cpu())
        board.figure("labels", labels_figure(*labels, first_step=shown.start, num_classes=self.num_classes))


def _scored_steps(batch: Batch) -> Tensor:
    """Return a mask (B, T) of the steps that the accuracy counts."""
    counted_BT = valid_steps(batch) & (batch["targets"] != IGNORED)
    return counted_BT & batch["scored"] if "scored" in batch else counted_BT
