"""Regression from whole sequences.

Shapes: B batch, T time, I input_size, H features of the encoder, K target_size.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from app.plots.figures import agreement_figure
from app.plots.tensorboard import Board
from app.tasks.base import CellFactory, Part, StepOutput
from app.tasks.encoder import EncoderTask
from datamodules import Batch


class SequenceRegressor(EncoderTask):
    """K numbers per sequence, predicted from the last step: W y_T + b, trained by the mean squared error.

    With ``bidirectional``, y_T is joined to the reverse direction's output at the first step, which is its last one.

    Batches hold ``inputs`` (B, T, I), ``targets`` (B, K), and ``lengths`` (B,) if the sequences are padded.

    Args:
        cell: The recurrent cell of each layer: called with (input_size, hidden_size).
        input_size: Number of features of one step. The command line takes it from the data.
        target_size: K. The command line takes it from the data.
        hidden_size: Number of hidden units of each layer and direction.
        **kwargs: Arguments of :class:`app.tasks.encoder.EncoderTask`.
    """

    required_sizes = ("input_size", "target_size")
    batch_dimensions = (("inputs", 3), ("targets", 2))
    monitor = "validation/loss"
    mode = "min"

    def __init__(
        self, cell: CellFactory, input_size: int, target_size: int, hidden_size: int = 128, **kwargs: Any
    ) -> None:
        super().__init__(cell, input_size, hidden_size, **kwargs)
        self.head = nn.Linear(self.features, target_size)
        self.keep_encoder(target_size=target_size)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return predictions (B, K) for inputs (B, T, I), from each sequence's last valid step."""
        predictions_BK: Tensor = self.head(self.encode_sequence(inputs, lengths))
        return predictions_BK

    def shared_step(self, batch: Batch, part: Part) -> StepOutput:
        """Return the mean squared error and the predictions (B, K)."""
        predictions_BK = self(batch["inputs"], batch.get("lengths"))
        return StepOutput(F.mse_loss(predictions_BK, batch["targets"]), predictions_BK, len(predictions_BK))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return one row per sequence: each target and each prediction."""
        predictions_BK = self(batch["inputs"], batch.get("lengths"))
        targets = {f"target_{number}": column_B for number, column_B in enumerate(batch["targets"].unbind(1))}
        return targets | {f"prediction_{number}": column_B for number, column_B in enumerate(predictions_BK.unbind(1))}

    def show_batch(self, board: Board, batch: Batch, outputs: Tensor, batch_idx: int) -> None:
        """Plot the predictions of the first batch against their targets."""
        if batch_idx == 0:
            pairs = (batch["targets"].flatten().cpu(), outputs.flatten().float().cpu())
            board.figure("agreement", agreement_figure(*pairs))
