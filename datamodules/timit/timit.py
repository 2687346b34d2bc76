"""TIMIT as frames of log-power spectra: a target for every frame.

Shapes: B utterances, T frames of the longest of them, F 129 frequency bins, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from datamodules.base import Batch, DataError, DataModule
from datamodules.timit import spectra
from datamodules.timit.feature_files import FeatureFile
from datamodules.timit.preparation import is_prepared, open_timit, prepare_timit
from datamodules.timit.recordings import GROUPS, differences

PROTOCOLS = {
    "prediction": "protocol prediction: the target is the next frame",
    "recall": (
        "protocol recall: the target is the previous frame, which the input has shown already; this is what the "
        "published numbers measure, and no prediction: never compare it with the protocol prediction"
    ),
}
SPLITS = ("official", "published", "speakers")
PARTS = ("train", "validation", "test")


class Place(NamedTuple):
    """Where an utterance is."""

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


class TIMIT(DataModule):
    """Read speech as frames of 129 log powers in dB, every 16 ms, to predict the next frame of.

    The corpus comes from the Linguistic Data Consortium (LDC93S1); a free sample of 16 speakers comes with NLTK. Sound
    is resampled to 8 kHz; a frame is 10 log10(1e-5 + |X|^2) of 256 samples under a Hann window, every 128 samples, not
    normalised. The sentences SA1 and SA2, which everybody reads, are left out. ``python -m app prepare timit`` writes
    the frames to files once; if that was not done, it is done at the first use.

    Batches hold ``inputs`` and ``targets`` (B, T, F), zeros where an utterance is shorter, ``lengths`` (B,), and in
    validation and test ``sounds`` (B, (T + 1) x 128), whose short-time spectra the targets are the power of, and
    ``numbers`` (B,) for :meth:`names`.

    Source: Garofolo et al., "TIMIT Acoustic-Phonetic Continuous Speech Corpus", 1993; as a task of frame regression:
    Wisdom, Powers, Hershey, Le Roux and Atlas, "Full-Capacity Unitary Recurrent Neural Networks", NeurIPS 2016.

    Args:
        root: Folder of the disc, or one above it; None means the environment variable DATA_DIR, else ``data``. It is
            read only to prepare.
        batch_size: Utterances in a batch (of each process).
        prepared: Folder of the prepared files; None means ``timit-features`` in the root folder.
        protocol: ``prediction``: the target is the next frame. ``recall``: it is the previous frame, -50 dB (silence)
            before the first; the published numbers of MomentumRNN are of this task. Never compare one with the other.
        split: ``official``: 462 training speakers, 50 development speakers to validate, 24 core test speakers.
            ``published``: as the public code of MomentumRNN has it, without the seven training speakers whose names
            contain "sa", validated on the core test set and tested on the development set. ``speakers``: by
            ``fractions`` of all speakers that are there, for samples of the corpus; the same in every run.
        fractions: Shares of train, validation and test in the split ``speakers``; no speaker is in two of them.
        dtype: Type of the numbers if the files are still to be prepared, float32 or float16.

    Raises:
        ValueError: if an argument lies outside what is accepted.
        DataError: while the data are prepared and opened: if they are missing, damaged or too few.
    """

    train: Frames
    validation: Frames
    test: Frames
    input_size = spectra.BINS
    target_size = spectra.BINS
    provided_sizes = ("input_size", "target_size")
    resumable_arguments = ("root", "prepared")

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 32,
        prepared: str | None = None,
        protocol: Literal["prediction", "recall"] = "prediction",
        split: Literal["official", "published", "speakers"] = "official",
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        super().__init__(root, batch_size)
        for name, value, known in (("protocol", protocol, PROTOCOLS), ("split", split, SPLITS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; {' or '.join(map(repr, known))} is expected")
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(f"fractions is {list(fractions)}; three numbers above 0 whose sum is 1 are expected")
        self.prepared = Path(prepared) if prepared else self.root / "timit-features"
        self.protocol = protocol
        self.split = split
        self.fractions = tuple(fractions)
        self.dtype = dtype

    @property
    def notes(self) -> list[str]:
        return [PROTOCOLS[self.protocol]]

    @property
    def description(self) -> dict[str, Any]:
        sizes = {part: len(places) for part, places in self.places.items()}
        held_out = {part: sorted({place.speaker for place in self.places[part]}) for part in PARTS[1:]}
        return {
            "protocol": self.protocol,
            "meaning": PROTOCOLS[self.protocol],
            "frames": "10 log10(1e-5 + |X|^2) in dB, 129 bins, 8 kHz, window 32 ms, hop 16 ms, not normalised",
            "speakers": self.split,
            "split": sizes,
            "differences": self.differences,
            **({"held_out": held_out} if self.split == "speakers" else {}),
        }

    @cached_property
    def files(self) -> list[FeatureFile]:
        """The prepared files, one for each group of speakers."""
        return open_timit(self.prepared)

    @cached_property
    def places(self) -> dict[str, list[Place]]:
        """The utterances of each part."""
        groups = {file.name: [Place(file, number) for number in range(len(file))] for file in self.files}
        if self.split == "speakers":
            return self._by_fractions([place for group in groups.values() for place in group])
        train, development, core_test = (groups.get(group, []) for group in GROUPS)
        if self.split == "official":
            return {"train": train, "validation": development, "test": core_test}
        train = [place for place in train if "sa" not in place.speaker]
        return {"train": train, "validation": core_test, "test": development}

    @property
    def differences(self) -> list[str]:
        """What the corpus lacks or has too much, by name; a sample that is split by speakers lacks nothing."""
        if self.split == "speakers":
            return []
        return differences((said.speaker, said.sentence) for file in self.files for said in file.utterances)

    def prepare_data(self) -> None:
        """Prepare the files where that is not done; Lightning calls it in one process of a machine."""
        if not is_prepared(self.prepared):
            prepare_timit(self.root, self.prepared, self.dtype)

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "train"):
            return
        for part, places in self.places.items():
            if not places:
                raise DataError(
                    f"{self.prepared} holds no utterance of the part {part} of the split {self.split}; for a sample "
                    "of the corpus --data.split speakers is expected"
                )
        if self.differences:
            rank_zero_warn("TIMIT is not what is expected: " + "; ".join(self.differences))
        self.train = Frames(self.places["train"], self.protocol)
        self.validation, self.test = (
            Frames(sorted(self.places[part], key=lambda place: place.frames), self.protocol, sounds=True)
            for part in PARTS[1:]
        )

    def baselines(self) -> dict[str, float]:
        """Mean squared errors in dB^2 of two trivial predictors, on the validation and on the test data."""
        mean_F = self.train.mean_target()
        return {
            f"{name}, {part}": frames.mean_squared_error(answer)
            for name, answer in (("last frame repeated", None), ("mean of the training frames", mean_F))
            for part, frames in (("validation", self.validation), ("test", self.test))
        }

    def names(self, numbers: Sequence[int]) -> list[str]:
        """Speaker and sentence of test utterances, such as fvmh0_si836."""
        return [self.test.places[number].name for number in numbers]

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, shuffle=True, lengths=self.train.lengths)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the protocol of its model, and how far the training has come."""
        return {"protocol": self.protocol, **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained under the other protocol."""
        if state_dict["protocol"] != self.protocol:
            raise DataError(
                f"protocol is {self.protocol!r}, but the checkpoint was trained on {state_dict['protocol']!r}; the "
                "two are different tasks"
            )
        super().load_state_dict(state_dict)

    def _by_fractions(self, every: Sequence[Place]) -> dict[str, list[Place]]:
        """Parts of speakers drawn by a fixed seed, their numbers by the largest remainders, at least one each."""
        speakers = sorted({place.speaker for place in every})
        if len(speakers) < len(PARTS):
            raise DataError(f"{self.prepared} holds {len(speakers)} speakers; at least {len(PARTS)} are expected")
        shares = np.array(self.fractions) * len(speakers)
        counts = np.floor(shares).astype(int)
        counts[np.argsort(counts - shares, kind="stable")[: len(speakers) - counts.sum()]] += 1
        for part in np.flatnonzero(counts == 0):
            counts[counts.argmax()] -= 1
            counts[part] = 1
        # not numpy's new generators: RandomState draws the same in every version
        order = [speakers[number] for number in np.random.RandomState(0).permutation(len(speakers))]
        ends = np.cumsum(counts)
        chosen = [set(order[end - count : end]) for end, count in zip(ends, counts, strict=True)]
        return {
            part: [place for place in every if place.speaker in members]
            for part, members in zip(PARTS, chosen, strict=True)
        }


class Frames(Dataset[Batch]):
    """Inputs and targets of utterances, under a protocol.

    Args:
        places: The utterances.
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
        """``inputs`` and ``targets`` (T, F), and ``sounds`` (N,), whose spectra the targets are the power of."""
        place = self.places[number]
        power_TF, sound_N = (torch.tensor(array, dtype=torch.float32) for array in place.file[place.number])
        if self.predict:
            example = {"inputs": power_TF[:-1], "targets": power_TF[1:]}
        else:
            silence_1F = torch.full_like(power_TF[:1], spectra.SILENCE)
            example = {"inputs": power_TF, "targets": torch.cat([silence_1F, power_TF[:-1]])}
        if self.sounds:
            whole_N = spectra.padded(sound_N)
            hop = spectra.HOP
            example["sounds"] = whole_N[hop:] if self.predict else torch.cat([whole_N.new_zeros(hop), whole_N[:-hop]])
        return example

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """A whole batch, padded with zeros: what DataLoader asks for where it exists."""
        examples = [self[number] for number in numbers]
        batch = {name: pad_sequence([example[name] for example in examples], True) for name in examples[0]}
        batch["lengths"] = torch.tensor([self.lengths[number] for number in numbers])
        return {**batch, "numbers": torch.tensor(numbers)} if self.sounds else batch

    def mean_target(self) -> Tensor:
        """The mean (F,) of all target frames, float64."""
        total_F = torch.stack([self[number]["targets"].double().sum(0) for number in range(len(self))]).sum(0)
        return total_F / sum(self.lengths)

    def mean_squared_error(self, answer_F: Tensor | None) -> float:
        """Of an answer that is the same for every frame, or, if None, of the input frame as answer."""
        total = 0.0
        for number in range(len(self)):
            example = self[number]
            answer = example["inputs"] if answer_F is None else answer_F
            total += float((example["targets"].double() - answer).square().sum())
        return total / (sum(self.lengths) * spectra.BINS)
