"""Regression of frames: a target for every step of a sequence.

Shapes: B batch, T time, I input_size, H hidden_size, F target_size, N samples.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Adam

from app.optim.parameter_groups import OptimizerFactory
from app.plots.figures import bins_picture, frames_picture
from app.plots.tensorboard import Board
from app.tasks.base import CellFactory, LRSchedule, Task, valid_steps
from app.tasks.speech import speech_measures
from datamodules import Batch, DataModule
from datamodules.timit import spectra


class FrameRegressor(Task):
    """A target for every valid step, trained by the mean squared error over valid steps.

    y^_t = center + scale (W h_t + b), h = cell((x - center) / scale).

    Batches hold ``inputs`` (B, T, I), ``targets`` (B, T, F), and ``lengths`` (B,) where sequences are padded. Steps
    from ``lengths`` on count nowhere, and means over an epoch are weighted by valid steps. Where validation and test
    batches hold ``sounds`` (B, N), the targets are log powers in dB of their short-time spectra
    (:mod:`datamodules.timit.spectra`), and the loss is in dB^2; the sounds are then rebuilt from the predicted power
    and the true phase, and measured: segmental SNR, STOI, PESQ (:mod:`app.tasks.speech`), means over sequences. Test
    batches also hold ``numbers`` (B,), by which the data module names the sequences in a table of predictions.

    Args:
        cell: The recurrent cell: called with (input_size, hidden_size).
        input_size: Number of features of one step; the command line takes it from the data.
        target_size: Number of targets of one step; the command line takes it from the data.
        hidden_size: Number of hidden units of the cell.
        optimizer: The optimiser: called with the parameters.
        lr_schedule: constant, one_cycle or cosine over the whole run, peaking at the optimiser's learning rate.
        orthogonal_optimizer: The optimiser of the cell's orthogonal parameters, if they have one of their own.
        speech_every: Number of epochs after each of which the validation measures the rebuilt sounds too; 0: never
            while training, only at its end and by the commands ``validate`` and ``test``.
        center: About what inputs and targets vary; 0, as published, leaves them as they are.
        scale: How much they vary. Frames in dB saturate the gates of a cell; divided by some 15 dB they do not. The
            error is that of the targets as they are, whatever the scale.

    Raises:
        ValueError: if ``speech_every`` is negative, or ``scale`` is not above 0.
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
        speech_every: int = 0,
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(optimizer, lr_schedule, orthogonal_optimizer)
        if speech_every < 0:
            raise ValueError(f"speech_every is {speech_every}; 0 or a positive integer is expected")
        if not scale > 0:
            raise ValueError(f"scale is {scale}; a number above 0 is expected")
        self.center, self.scale = center, scale
        self.cell = cell(input_size, hidden_size)
        self.head = nn.Linear(hidden_size, target_size)
        self.speech_every = speech_every
        self.keep_hyperparameters(
            self.cell,
            input_size=input_size,
            target_size=target_size,
            hidden_size=hidden_size,
            speech_every=speech_every,
            center=center,
            scale=scale,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Predictions (B, T, F) from inputs (B, T, I); a step's depends on no later one, so padding changes none."""
        y_BTH, _ = self.cell((inputs - self.center) / self.scale)
        predictions_BTF: Tensor = self.head(y_BTH) * self.scale + self.center
        return predictions_BTF

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.balanced(super().training_step(batch, batch_idx), int(valid_steps(batch).sum()))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        predictions_BTF = self.measure(batch, "validation")[1]
        every, training = self.speech_every, self.trainer.state.fn == TrainerFn.FITTING
        if not training or (every and (self.current_epoch + 1) % every == 0):
            self._measure_speech(batch, predictions_BTF, "validation")
        return predictions_BTF

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure_speech(batch, self.measure(batch, "test")[1], "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One row a valid step: name of the sequence, number of the step, and the predictions."""
        mask_BT = valid_steps(batch)
        predictions_SF = self(batch["inputs"])[mask_BT]
        sequence_S, step_S = mask_BT.nonzero(as_tuple=True)
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        names = data.names(batch["numbers"].tolist())
        columns = {f"prediction_{number}": column_S for number, column_S in enumerate(predictions_SF.unbind(1))}
        return {"sequence": [names[number] for number in sequence_S.tolist()], "step": step_S, **columns}

    def probe_loss(self, batch: Batch) -> Tensor:
        return masked_mean_squared_error(self(batch["inputs"]), batch["targets"], valid_steps(batch))

    def observe_batch(self, board: Board, batch: Batch, outputs: Tensor, batch_idx: int) -> None:
        """Collect errors by target; of the first batch, show target, prediction and error of its longest sequence."""
        mask_BT = valid_steps(batch)
        errors_SF = (outputs - batch["targets"])[mask_BT].double()
        if batch_idx == 0:
            self.squares_F = errors_SF.new_zeros(errors_SF.shape[1])
            self.count = errors_SF.new_zeros(())
            row = int(mask_BT.sum(1).argmax())
            valid_T = mask_BT[row]
            pair = (outputs[row, valid_T].float().cpu(), batch["targets"][row, valid_T].cpu())
            board.figure("frames", frames_picture(*pair))
            if "sounds" in batch:
                rebuilt_N, sound_N = _rebuilt(batch, outputs)[row]
                board.audio("sound/target", sound_N.cpu(), spectra.RATE)
                board.audio("sound/prediction", rebuilt_N.clamp(-1, 1).cpu(), spectra.RATE)
        self.squares_F += errors_SF.square().sum(0)
        self.count += len(errors_SF)

    def observe_epoch(self, board: Board) -> None:
        """Show the mean squared error of each target over the whole validation."""
        reduce = self.trainer.strategy.reduce
        squares_F, count = reduce(self.squares_F, reduce_op="sum"), reduce(self.count, reduce_op="sum")
        board.figure("error_by_bin", bins_picture((squares_F / count).cpu()))

    def measure(self, batch: Batch, part: str) -> tuple[Tensor, Tensor]:
        """(loss, predictions of shape (B, T, F)) of a batch, logged."""
        predictions_BTF, mask_BT = self(batch["inputs"]), valid_steps(batch)
        loss = masked_mean_squared_error(predictions_BTF, batch["targets"], mask_BT)
        self.log_part(part, int(mask_BT.sum()), loss=loss)
        return loss, predictions_BTF

    def _measure_speech(self, batch: Batch, predictions_BTF: Tensor, part: str) -> None:
        """Log the means over the batch of what :func:`app.tasks.speech.speech_measures` says of the rebuilt sounds."""
        if "sounds" not in batch:
            return
        measures = [speech_measures(*pair) for pair in _rebuilt(batch, predictions_BTF)]
        means = {name: torch.stack([found[name] for found in measures]).mean() for name in measures[0]}
        self.log_part(part, len(measures), **{name: mean.to(self.device) for name, mean in means.items()})


def _rebuilt(batch: Batch, predictions_BTF: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(rebuilt sound, true sound) of each sequence: the samples that two of its frames cover."""
    sounds_BN = batch["sounds"]
    rebuilt_BN = spectra.rebuild(predictions_BTF.to(sounds_BN.dtype), sounds_BN)
    ends = (valid_steps(batch).sum(1) - 1) * spectra.HOP
    start = spectra.HOP
    return [
        (rebuilt_N[:end], sound_N[start : start + end])
        for rebuilt_N, sound_N, end in zip(rebuilt_BN, sounds_BN, ends.tolist(), strict=True)
    ]


def masked_mean_squared_error(predictions_BTF: Tensor, targets_BTF: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean of (y^ - y)^2 over the steps where the mask is True and over their F targets."""
    difference_BTF = predictions_BTF - targets_BTF  # in float32 also under autocast: the targets are
    squares_BTF = torch.where(mask_BT[..., None], difference_BTF, 0).square()
    return squares_BTF.sum() / (mask_BT.sum() * targets_BTF.shape[-1])
