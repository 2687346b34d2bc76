"""Frames of utterances as inputs and targets, for prediction or recall.

Shapes: T frames, F 129 frequency bins, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from datamodules.base import Batch
from datamodules.timit import spectra
from datamodules.timit.feature_files import FeatureFile


class Place(NamedTuple):
    """Location of an utterance: a feature file and the number in it."""

    file: FeatureFile
    number: int

    @property
    def speaker(self) -> str:
        return self.file.utterances[self.number].speaker

    @property
    def name(self) -> str:
        said = self.file.utterances[self.number]
        return f"{said.speaker}_{said.sentence}"

    @property
    def frames(self) -> int:
        return self.file.utterances[self.number].frames


class Frames(Dataset[Batch]):
    """Inputs and targets of utterances under a protocol.

    Under ``recall`` the first target is a frame of silence. The public code of MomentumRNN starts at the second frame
    instead, so it has one frame less for each utterance; the effect on the error is negligible.

    Args:
        places: Utterances.
        protocol: ``prediction`` or ``recall``.
        sounds: Whether batches hold the sounds too.
    """

    def __init__(self, places: Sequence[Place], protocol: str, sounds: bool = False) -> None:
        self.places = places
        self.predict = protocol == "prediction"
        self.sounds = sounds
        self.lengths = [place.frames - self.predict for place in places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Batch:
        """Return ``inputs`` and ``targets`` (T, F), and ``sounds`` (N,), whose power spectra are the targets."""
        place = self.places[number]
        power_TF, sound_N = (torch.tensor(array, dtype=torch.float32) for array in place.file[place.number])
        if self.predict:
            example = {"inputs": power_TF[:-1], "targets": power_TF[1:]}
        else:
            silence_1F = torch.full_like(power_TF[:1], spectra.SILENCE)
            example = {"inputs": power_TF, "targets": torch.cat([silence_1F, power_TF[:-1]])}
        if self.sounds:
            padded_N = spectra.padded(sound_N)
            hop = spectra.HOP
            example["sounds"] = (
                padded_N[hop:] if self.predict else torch.cat([padded_N.new_zeros(hop), padded_N[:-hop]])
            )
        return example

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """Return a whole batch, padded with zeros. DataLoader calls this method where it exists."""
        examples = [self[number] for number in numbers]
        batch = {name: pad_sequence([example[name] for example in examples], True) for name in examples[0]}
        batch["lengths"] = torch.tensor([self.lengths[number] for number in numbers])
        return {**batch, "numbers": torch.tensor(numbers)} if self.sounds else batch

    def mean_target(self) -> Tensor:
        """Return the mean (F,) of all target frames in float64."""
        total_F = torch.stack([self[number]["targets"].double().sum(0) for number in range(len(self))]).sum(0)
        return total_F / sum(self.lengths)

    def mean_squared_error(self, answer_F: Tensor | None) -> float:
        """Return the mean squared error of a constant answer.

        Args:
            answer_F: Answer to every frame; None: the input frame is the answer.
        """
        total = 0.0
        for number in range(len(self)):
            example = self[number]
            answer = example["inputs"] if answer_F is None else answer_F
            total += float((example["targets"].double() - answer).square().sum())
        return total / (sum(self.lengths) * spectra.BINS)
