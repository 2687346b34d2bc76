"""Regression of every step of a sequence.

Shapes: B batch, T time, I input_size, H features of the encoder, F target_size, N samples, S valid steps of a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from app.plots.figures import bins_figure, frames_figure
from app.plots.tensorboard import Board
from app.tasks.base import CellFactory, Part, StepOutput
from app.tasks.encoder import EncoderTask
from app.tasks.padding import valid_steps
from app.tasks.speech_quality import speech_measures
from datamodules import Batch, DataModule
from datamodules.timit import spectra


class FrameRegressor(EncoderTask):
    """A vector per step, trained by the mean squared error over valid steps.

    y^_t = center + scale (W h_t + b), h = encoder((x - center) / scale).

    The task is causal: the targets are often later frames, which a reverse direction would read.

    Batches hold ``inputs`` (B, T, I), ``targets`` (B, T, F), and ``lengths`` (B,) if the sequences are padded. Padding
    is left out of every mean. Test batches also hold ``numbers`` (B,): indices of the sequences in the data module.

    If validation and test batches hold ``sounds`` (B, N), the targets are log powers in dB of the sounds' short-time
    spectra (:mod:`datamodules.timit.spectra`), and the loss is in dB^2. The task then rebuilds each sound from the
    predicted power and the true phase, and logs its quality (:mod:`app.tasks.speech_quality`), averaged over sequences.

    Args:
        cell: The recurrent cell of each layer: called with (input_size, hidden_size).
        input_size: Number of features of one step. The command line takes it from the data.
        target_size: Number of targets of one step. The command line takes it from the data.
        hidden_size: Number of hidden units of each layer and direction.
        speech_every: Number of epochs between validations that also measure the quality of the rebuilt sounds.
            0: only the final evaluation and the commands ``validate`` and ``test`` measure it.
        center: Offset of inputs and targets. The published runs use 0.
        scale: Scale of inputs and targets, above 0. Frames in dB saturate the gates of a cell; divided by about 15 dB
            they do not. The loss is that of the unscaled targets.
        **kwargs: Arguments of :class:`app.tasks.encoder.EncoderTask`.

    Raises:
        ValueError: If ``speech_every`` is negative, or ``scale`` is not positive.
    """

    required_sizes = ("input_size", "target_size")
    batch_dimensions = (("inputs", 3), ("targets", 3))
    causal = True
    monitor = "validation/loss"
    mode = "min"

    def __init__(
        self,
        cell: CellFactory,
        input_size: int,
        target_size: int,
        hidden_size: int = 128,
        speech_every: int = 0,
        center: float = 0.0,
        scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(cell, input_size, hidden_size, **kwargs)
        if speech_every < 0:
            raise ValueError(f"speech_every must be an integer of at least 0, got {speech_every}")
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.center, self.scale = center, scale
        self.head = nn.Linear(self.features, target_size)
        self.speech_every = speech_every
        self.keep_encoder(target_size=target_size, speech_every=speech_every, center=center, scale=scale)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return predictions (B, T, F) for inputs (B, T, I)."""
        y_BTH = self.encode((inputs - self.center) / self.scale)
        predictions_BTF: Tensor = self.head(y_BTH) * self.scale + self.center
        return predictions_BTF

    def shared_step(self, batch: Batch, part: Part) -> StepOutput:
        """Return the mean squared error, the predictions (B, T, F) and, if due, the quality of the rebuilt sounds."""
        predictions_BTF, valid_BT = self(batch["inputs"]), valid_steps(batch)
        loss = masked_mean_squared_error(predictions_BTF, batch["targets"], valid_BT)
        metrics = self._speech_metrics(batch, predictions_BTF) if self._speech_is_due(batch, part) else {}
        return StepOutput(loss, predictions_BTF, int(valid_BT.sum()), metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return one row per valid step: the name of the sequence, the index of the step, and the predictions."""
        valid_BT = valid_steps(batch)
        predictions_SF = self(batch["inputs"])[valid_BT]
        sequence_S, step_S = valid_BT.nonzero(as_tuple=True)
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        names = data.names(batch["numbers"].tolist())
        columns = {f"prediction_{number}": column_S for number, column_S in enumerate(predictions_SF.unbind(1))}
        return {"sequence": [names[number] for number in sequence_S.tolist()], "step": step_S, **columns}

    def show_batch(self, board: Board, batch: Batch, outputs: Tensor, batch_idx: int) -> None:
        """Sum squared errors by target; of the first batch, show the longest sequence and its error."""
        valid_BT = valid_steps(batch)
        errors_SF = (outputs - batch["targets"])[valid_BT].double()
        if batch_idx == 0:
            self.squares_F = errors_SF.new_zeros(errors_SF.shape[1])
            self.count = errors_SF.new_zeros(())
            row = int(valid_BT.sum(1).argmax())
            valid_T = valid_BT[row]
            pair = (outputs[row, valid_T].float().cpu(), batch["targets"][row, valid_T].cpu())
            board.figure("frames", frames_figure(*pair))
            if "sounds" in batch:
                rebuilt_N, sound_N = _rebuilt_sounds(batch, outputs)[row]
                board.audio("sound/target", sound_N.cpu(), spectra.RATE)
                board.audio("sound/prediction", rebuilt_N.clamp(-1, 1).cpu(), spectra.RATE)
        self.squares_F += errors_SF.square().sum(0)
        self.count += len(errors_SF)

    def show_epoch(self, board: Board) -> None:
        """Show the mean squared error of each target over the validation set."""
        reduce = self.trainer.strategy.reduce
        squares_F, count = reduce(self.squares_F, reduce_op="sum"), reduce(self.count, reduce_op="sum")
        board.figure("error_by_bin", bins_figure((squares_F / count).cpu()))

    def _speech_is_due(self, batch: Batch, part: Part) -> bool:
        if "sounds" not in batch or part not in ("validation", "test"):
            return False
        if self.trainer.state.fn != TrainerFn.FITTING:
            return True
        return self.speech_every > 0 and (self.current_epoch + 1) % self.speech_every == 0

    def _speech_metrics(self, batch: Batch, predictions_BTF: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return the mean quality of the rebuilt sounds of a batch, by measure, with the number of sounds."""
        measures = [speech_measures(*pair) for pair in _rebuilt_sounds(batch, predictions_BTF)]
        means = {name: torch.stack([found[name] for found in measures]).mean() for name in measures[0]}
        return {name: (mean.to(self.device), len(measures)) for name, mean in means.items()}


def masked_mean_squared_error(predictions_BTF: Tensor, targets_BTF: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean of (y^ - y)^2 over the steps where the mask is True and over the F targets."""
    difference_BTF = predictions_BTF - targets_BTF  # float32 under autocast too, because the targets are
    squares_BTF = torch.where(mask_BT[..., None], difference_BTF, 0).square()
    return squares_BTF.sum() / (mask_BT.sum() * targets_BTF.shape[-1])


def _rebuilt_sounds(batch: Batch, predictions_BTF: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return (rebuilt sound, true sound) of each sequence, without samples that fewer than two frames cover."""
    sounds_BN = batch["sounds"]
    rebuilt_BN = spectra.rebuild(predictions_BTF.to(sounds_BN.dtype), sounds_BN)
    ends = (valid_steps(batch).sum(1) - 1) * spectra.HOP
    start = spectra.HOP
    return [
        (rebuilt_N[:end], sound_N[start : start + end])
        for rebuilt_N, sound_N, end in zip(rebuilt_BN, sounds_BN, ends.tolist(), strict=True)
    ]
