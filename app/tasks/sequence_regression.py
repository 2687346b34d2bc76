"""Numbers read from whole sequences.

Shapes: B batch, T time, I input_size, H hidden_size, K numbers of an answer.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from app.optim.parameter_groups import OptimizerFactory
from app.plots.figures import agreement_picture
from app.plots.tensorboard import Board
from app.tasks.base import CellFactory, LRSchedule, Task, last_step
from datamodules import Batch


class SequenceRegressor(Task):
    """K numbers for a sequence, read from the last step: W y_T + b, trained by the mean squared error.

    Batches hold ``inputs`` (B, T, I), ``targets`` (B, K), and ``lengths`` (B,) where sequences are padded.

    Args:
        cell: The recurrent cell: called with (input_size, hidden_size).
        input_size: Number of features of one step; the command line takes it from the data.
        target_size: K; the command line takes it from the data.
        hidden_size: Number of hidden units of the cell.
        optimizer: The optimiser: called with the parameters.
        lr_schedule: constant, one_cycle or cosine over the whole run, peaking at the optimiser's learning rate.
        orthogonal_optimizer: The optimiser of the cell's orthogonal parameters, if they have one of their own.
    """

    required_sizes = ("input_size", "target_size")
    monitor = "validation/loss"
    mode = "min"

    def __init__(
        self,
        cell: CellFactory,
        input_size: int,
        target_size: int,
        hidden_size: int = 128,
        optimizer: OptimizerFactory = Adam,
        lr_schedule: LRSchedule = "constant",
        orthogonal_optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(optimizer, lr_schedule, orthogonal_optimizer)
        self.cell = cell(input_size, hidden_size)
        self.head = nn.Linear(hidden_size, target_size)
        self.keep_hyperparameters(self.cell, input_size=input_size, target_size=target_size, hidden_size=hidden_size)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Answers of shape (B, K) from inputs (B, T, I), read at step ``lengths`` - 1, or at the last one."""
        y_BTH, _ = self.cell(inputs)
        answers_BK: Tensor = self.head(last_step(y_BTH, lengths))
        return answers_BK

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One row a sequence: each number of the target, and what was answered."""
        answers_BK = self(batch["inputs"], batch.get("lengths"))
        targets = {f"target_{number}": column_B for number, column_B in enumerate(batch["targets"].unbind(1))}
        return targets | {f"prediction_{number}": column_B for number, column_B in enumerate(answers_BK.unbind(1))}

    def probe_loss(self, batch: Batch) -> Tensor:
        return F.mse_loss(self(batch["inputs"], batch.get("lengths")), batch["targets"])

    def observe_batch(self, board: Board, batch: Batch, outputs: Tensor, batch_idx: int) -> None:
        """Show the answers of the first batch beside their targets."""
        if batch_idx == 0:
            answers = (batch["targets"].flatten().cpu(), outputs.flatten().float().cpu())
            board.figure("agreement", agreement_picture(*answers))

    def measure(self, batch: Batch, part: str) -> tuple[Tensor, Tensor]:
        """(loss, answers of shape (B, K)), logged."""
        answers_BK = self(batch["inputs"], batch.get("lengths"))
        loss = F.mse_loss(answers_BK, batch["targets"])
        self.log_part(part, len(answers_BK), loss=loss)
        return loss, answers_BK
