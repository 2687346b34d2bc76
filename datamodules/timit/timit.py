"""TIMIT as frames of log-power spectra, with a target for every frame.

Shapes: B utterances, T frames of the longest utterance, F 129 frequency bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.base import Batch, DataError, DataModule
from datamodules.timit import spectra
from datamodules.timit.feature_files import FeatureFile
from datamodules.timit.frames import Frames, Place
from datamodules.timit.preparation import is_prepared, open_timit, prepare_timit
from datamodules.timit.recordings import GROUPS, differences

PROTOCOLS = {
    "prediction": "protocol prediction: the target is the next frame",
    "recall": (
        "protocol recall: the target is the previous frame, which was already an input; the published numbers measure "
        "this, not prediction: never compare the two protocols"
    ),
}
SPLITS = ("official", "published", "speakers")
BATCHINGS = ("by_length", "shuffle")
PARTS = ("train", "validation", "test")


class TIMIT(DataModule):
    """Read speech as frames of 129 log powers in dB, one every 16 ms.

    The corpus is published by the Linguistic Data Consortium (LDC93S1). NLTK distributes a free sample of 16 speakers.
    Sound is resampled to 8 kHz. A frame is ``10 log10(1e-5 + |X|^2)`` of 256 samples under a Hann window, every 128
    samples, not normalized. The sentences SA1 and SA2, which every speaker reads, are left out.
    ``python -m app prepare timit`` writes the frames to files; otherwise the first use writes them.

    Batches hold ``inputs`` and ``targets`` (B, T, F), zero where an utterance is shorter, and ``lengths`` (B,). In
    validation and test they also hold ``sounds`` (B, (T + 1) x 128), whose power spectra are the targets, and
    ``numbers`` (B,) for :meth:`names`.

    Differences from the public code of MomentumRNN: it resamples with MATLAB (Kaiser window, 5), which differs by
    1.1 dB^2 on average, all of it above bin 110. Under ``recall`` it starts at the second frame of an utterance.

    Source: Garofolo et al., "TIMIT Acoustic-Phonetic Continuous Speech Corpus", 1993; as a task of frame regression:
    Wisdom, Powers, Hershey, Le Roux and Atlas, "Full-Capacity Unitary Recurrent Neural Networks", NeurIPS 2016.

    Args:
        root: Folder of the disc, or one above it; None: the environment variable DATA_DIR, else ``data``. It is read
            for the preparation only.
        batch_size: Utterances in a batch of each process.
        prepared: Folder of the prepared files; None: ``timit-features`` in the root folder.
        protocol: ``prediction``: the target is the next frame. ``recall``: the target is the previous frame, -50 dB
            (silence) before the first; the published numbers of MomentumRNN are of this task. Never compare the two.
        split: ``official``: 462 training speakers, 50 development speakers for validation, 24 core test speakers.
            ``published``: as in the public code of MomentumRNN. Training leaves out the seven speakers whose names
            contain "sa"; the test set is the development speakers; the epoch is chosen on the test set, so its error
            is optimistic (``best_test`` in results.json). The core test speakers are not used. ``speakers``: all
            speakers that are present, divided by ``fractions``, the same in every run; for samples of the corpus.
        batching: Training batches. ``by_length``: pools of 32 batches are sorted by length, which saves padding; if a
            pool holds the whole corpus, a batch has largely the same utterances in each epoch. ``shuffle``: batches
            are drawn at random, as in the public code.
        fractions: Shares of train, validation and test under the split ``speakers``; no speaker is in two of them.
        dtype: Number type of files that are prepared at the first use, float32 or float16.

    Raises:
        ValueError: An argument is outside its range.
        DataError: During preparation and setup: the data are missing, damaged or too few.
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
        batching: Literal["by_length", "shuffle"] = "by_length",
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        super().__init__(root, batch_size)
        for name, value, known in (
            ("protocol", protocol, tuple(PROTOCOLS)),
            ("split", split, SPLITS),
            ("batching", batching, BATCHINGS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must be three positive numbers with sum 1, got {list(fractions)}")
        self.prepared = Path(prepared) if prepared else self.root / "timit-features"
        self.protocol = protocol
        self.split = split
        self.chosen_on_test = split == "published"
        self.batching = batching
        self.fractions = tuple(fractions)
        self.dtype = dtype

    @property
    def notes(self) -> list[str]:
        return [PROTOCOLS[self.protocol]]

    @property
    def description(self) -> dict[str, Any]:
        sizes = {part: len(places) for part, places in self.places.items()}
        if self.chosen_on_test:
            del sizes["validation"]
        held_out = {part: sorted({place.speaker for place in self.places[part]}) for part in PARTS[1:]}
        return {
            "protocol": self.protocol,
            "meaning": PROTOCOLS[self.protocol],
            "frames": "10 log10(1e-5 + |X|^2) in dB, 129 bins, 8 kHz, window 32 ms, hop 16 ms, not normalized",
            "speakers": self.split,
            "batching": self.batching,
            "split": sizes,
            "differences": self.differences,
            **({"held_out": held_out} if self.split == "speakers" else {}),
        }

    @cached_property
    def files(self) -> list[FeatureFile]:
        """Prepared files, one for each group of speakers."""
        return open_timit(self.prepared)

    @cached_property
    def places(self) -> dict[str, list[Place]]:
        """Utterances of each part."""
        groups = {file.name: [Place(file, number) for number in range(len(file))] for file in self.files}
        if self.split == "speakers":
            return self._by_fractions([place for group in groups.values() for place in group])
        train, development, core_test = (groups.get(group, []) for group in GROUPS)
        if self.split == "official":
            return {"train": train, "validation": development, "test": core_test}
        train = [place for place in train if "sa" not in place.speaker]
        return {"train": train, "validation": development, "test": development}

    @property
    def differences(self) -> list[str]:
        """Missing and extra speakers and sentences; empty under the split ``speakers``, which is for samples."""
        if self.split == "speakers":
            return []
        return differences((said.speaker, said.sentence) for file in self.files for said in file.utterances)

    def prepare_data(self) -> None:
        """Prepare the files if they are missing. Lightning calls it in one process of each machine."""
        if not is_prepared(self.prepared):
            prepare_timit(self.root, self.prepared, self.dtype)

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "train"):
            return
        for part, places in self.places.items():
            if not places:
                raise DataError(
                    f"{self.prepared} has no utterances for {part} under the split {self.split}. For a sample of the "
                    "corpus use --data.split speakers."
                )
        if self.differences:
            rank_zero_warn("TIMIT is incomplete: " + "; ".join(self.differences))
        self.train = Frames(self.places["train"], self.protocol)
        self.validation, self.test = (
            Frames(sorted(self.places[part], key=lambda place: place.frames), self.protocol, sounds=True)
            for part in PARTS[1:]
        )

    def baselines(self) -> dict[str, float]:
        """Return the mean squared errors in dB^2 of two trivial predictors on validation and test."""
        mean_F = self.train.mean_target()
        return {
            f"{name}, {part}": frames.mean_squared_error(answer)
            for name, answer in (("last frame repeated", None), ("mean of the training frames", mean_F))
            for part, frames in (("validation", self.validation), ("test", self.test))
        }

    def names(self, numbers: Sequence[int]) -> list[str]:
        """Return speaker and sentence of test utterances, such as fvmh0_si836."""
        return [self.test.places[number].name for number in numbers]

    def train_dataloader(self) -> DataLoader[Batch]:
        lengths = self.train.lengths if self.batching == "by_length" else None
        return self._loader(self.train, shuffle=True, lengths=lengths)

    def state_dict(self) -> dict[str, Any]:
        """Return the protocol and the position in the training data, for a checkpoint."""
        return {"protocol": self.protocol, **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the checkpoint was trained under the same protocol."""
        trained = state_dict["protocol"]
        if trained != self.protocol:
            raise DataError(f"protocol must be {trained}, as in the checkpoint's training, got {self.protocol}")
        super().load_state_dict(state_dict)

    def _reading(self) -> dict[str, Any]:
        return {**super()._reading(), "batching": self.batching}

    def _by_fractions(self, every: Sequence[Place]) -> dict[str, list[Place]]:
        """Divide the speakers by a fixed seed; counts follow the largest remainders, with at least one speaker each."""
        speakers = sorted({place.speaker for place in every})
        if len(speakers) < len(PARTS):
            raise DataError(f"{self.prepared} must hold at least {len(PARTS)} speakers, got {len(speakers)}")
        shares = np.array(self.fractions) * len(speakers)
        counts = np.floor(shares).astype(int)
        counts[np.argsort(counts - shares, kind="stable")[: len(speakers) - counts.sum()]] += 1
        for part in np.flatnonzero(counts == 0):
            counts[counts.argmax()] -= 1
            counts[part] = 1
        # numpy guarantees the same draws in every version for RandomState only
        order = [speakers[number] for number in np.random.RandomState(0).permutation(len(speakers))]
        ends = np.cumsum(counts)
        chosen = [set(order[end - count : end]) for end, count in zip(ends, counts, strict=True)]
        return {
            part: [place for place in every if place.speaker in members]
            for part, members in zip(PARTS, chosen, strict=True)
        }
