"""Classification of whole sequences.

Shapes: B batch, T time, I input_size, H features of the encoder, C classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.plots.figures import confusion_figure, examples_figure
from app.plots.tensorboard import Board
from app.tasks.base import CellFactory, Part, StepOutput
from app.tasks.encoder import EncoderTask
from datamodules import Batch, DataModule

SHOWN = 32  # examples in a figure


class SequenceClassifier(EncoderTask):
    """One label per sequence, predicted from the last step: logits = W y_T + b, trained by cross-entropy.

    With ``bidirectional``, y_T is joined to the reverse direction's output at the first step, which is its last one.

    Batches hold ``inputs`` (B, T, I), ``targets`` (B,), and ``lengths`` (B,) if the sequences are padded.

    Args:
        cell: The recurrent cell of each layer: called with (input_size, hidden_size).
        input_size: Number of features of one step. The command line takes it from the data.
        num_classes: Number of labels. The command line takes it from the data.
        hidden_size: Number of hidden units of each layer and direction.
        choose_by: Validation metric that selects the best epoch. On small validation sets the accuracy takes few
            values, and the loss separates epochs better.
        **kwargs: Arguments of :class:`app.tasks.encoder.EncoderTask`.
    """

    required_sizes = ("input_size", "num_classes")
    batch_dimensions = (("inputs", 3), ("targets", 1))
    training_arguments = (*EncoderTask.training_arguments, "choose_by")

    def __init__(
        self,
        cell: CellFactory,
        input_size: int,
        num_classes: int,
        hidden_size: int = 128,
        choose_by: Literal["accuracy", "loss"] = "accuracy",
        **kwargs: Any,
    ) -> None:
        super().__init__(cell, input_size, hidden_size, **kwargs)
        self.monitor = f"validation/{choose_by}"
        self.mode = "max" if choose_by == "accuracy" else "min"
        self.head = nn.Linear(self.features, num_classes)
        self.num_classes = num_classes
        self.keep_encoder(num_classes=num_classes, choose_by=choose_by)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits (B, C) for inputs (B, T, I), from each sequence's last valid step."""
        logits_BC: Tensor = self.head(self.encode_sequence(inputs, lengths))
        return logits_BC

    def shared_step(self, batch: Batch, part: Part) -> StepOutput:
        """Return the cross-entropy, the logits (B, C) and the accuracy."""
        logits_BC, targets_B = self(batch["inputs"], batch.get("lengths")), batch["targets"]
        loss = F.cross_entropy(logits_BC, targets_B)
        accuracy = (logits_BC.argmax(-1) == targets_B).to(self.metric_dtype).mean()
        return StepOutput(loss, logits_BC, len(targets_B), {"accuracy": (accuracy, len(targets_B))})

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return one row per sequence: the target, the predicted label, and the probability of each label."""
        probabilities_BC = self(batch["inputs"], batch.get("lengths")).softmax(-1)
        columns = {f"probability_{label}": probabilities_BC[:, label] for label in range(self.num_classes)}
        return {"target": batch["targets"], "prediction": probabilities_BC.argmax(-1), **columns}

    def show_batch(self, board: Board, batch: Batch, outputs: Tensor, batch_idx: int) -> None:
        """Count targets and predictions; of the first batch, show images with their labels."""
        targets_B, predictions_B = batch["targets"], outputs.argmax(-1)
        if batch_idx == 0:
            self.counts_CC = targets_B.new_zeros(self.num_classes, self.num_classes)
            data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
            images_BSS = data.images(batch["inputs"][:SHOWN]) if isinstance(data, DataModule) else None
            if images_BSS is not None:
                labels = targets_B[:SHOWN].tolist(), predictions_B[:SHOWN].tolist()
                board.figure("examples", examples_figure(images_BSS, *labels))
        self.counts_CC.index_put_((targets_B, predictions_B), torch.ones_like(targets_B), accumulate=True)

    def show_epoch(self, board: Board) -> None:
        """Show the confusion matrix of the validation set."""
        counts_CC = self.trainer.strategy.reduce(self.counts_CC, reduce_op="sum")
        board.figure("confusion", confusion_figure(counts_CC.cpu()))
