"""Speech Commands as raw sound or as spectra.

Shapes: B examples, N samples of a sound, T steps, I features of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.base import Batch, DataError, DataModule
from datamodules.labels import frequency_losses, majority_accuracy

RATE = 16_000  # samples per second of the files; sounds are padded or cut to one second
WINDOW, HOP, BANDS = 400, 160, 40  # of the spectra: 25 ms, 10 ms
FLOOR = 1e-6
SAMPLE = 1_000  # training sounds whose mean and standard deviation scale the features
FOLDERS = ("SpeechCommands/speech_commands_v0.02", "speech_commands_v0.02", ".")
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


class Clip(NamedTuple):
    """A file with the number of its word."""

    path: Path
    target: int


class Sounds(Dataset[Batch]):
    """Sounds that are read from their files when a batch needs them.

    Args:
        clips: Files with their classes.
        form: ``raw`` or ``spectra``.
        rate: Samples per second of raw sound.
    """

    def __init__(self, clips: Sequence[Clip], form: str, rate: int) -> None:
        self.clips, self.form, self.rate = clips, form, rate
        self.targets = torch.tensor([clip.target for clip in clips])
        self.mean, self.deviation = torch.tensor(0.0), torch.tensor(1.0)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch. DataLoader calls this method where it exists."""
        inputs_BTI = (self.features(indices) - self.mean) / self.deviation
        return {"inputs": inputs_BTI, "targets": self.targets[torch.as_tensor(indices)]}

    def features(self, indices: Sequence[int]) -> Tensor:
        """Return features (B, T, I) before scaling."""
        sounds_BN = torch.stack([_read(self.clips[index].path) for index in indices])
        if self.form == "spectra":
            return _log_mel(sounds_BN)
        if self.rate != RATE:
            from torchaudio.functional import resample

            sounds_BN = resample(sounds_BN, RATE, self.rate)
        return sounds_BN[..., None]


class SpeechCommands(DataModule):
    """Speech Commands version 2: 105,829 recordings of 35 words, each one second or shorter, at 16 kHz.

    The folder is that of torchaudio: ``SpeechCommands/speech_commands_v0.02`` in the root folder, with a folder of wave
    files for each word. ``validation_list.txt`` and ``testing_list.txt`` name the recordings of these parts, and all
    others are for training. No speaker is in two parts. Recordings are padded with zeros or cut to one second. Nothing
    is downloaded; ``torchaudio.datasets.SPEECHCOMMANDS(root, download=True)`` does so.

    Features are standardized by the mean and the standard deviation of 1,000 training recordings, always the same.

    Source: Warden, "Speech Commands: a dataset for limited-vocabulary speech recognition", arXiv 1804.03209, 2018.

    Args:
        root: Folder of the data; None: the environment variable DATA_DIR, else ``data``.
        batch_size: Recordings in a batch of each process.
        form: ``spectra``: 101 steps of the logarithm of the power in 40 mel bands, windows of 25 ms every 10 ms.
            ``raw``: one sample at each step.
        rate: Samples per second of raw sound, and so its number of steps; below 16,000 it is resampled.
        words: Words to tell apart; None: all that have a folder.
        train_size: Number of training recordings, the first of a fixed random order; None: all of them.

    Raises:
        ValueError: An argument is outside its range.
        DataError: During setup: the folder or a list is missing, a word has no folder, or a part is empty. During
            training: a file cannot be read, or has another rate or more than one channel.
    """

    provided_sizes = ("input_size", "num_classes")
    train: Sounds
    validation: Sounds
    test: Sounds

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        form: Literal["raw", "spectra"] = "spectra",
        rate: int = RATE,
        words: list[str] | None = None,
        train_size: int | None = None,
    ) -> None:
        super().__init__(root, batch_size)
        if form not in ("raw", "spectra"):
            raise ValueError(f"form must be one of raw, spectra, got {form!r}")
        if not 1 <= rate <= RATE:
            raise ValueError(f"rate must be an integer in [1, {RATE}], got {rate}")
        if rate != RATE and form == "spectra":
            raise ValueError(f"rate must be {RATE} for form spectra, got {rate}")
        if words is not None and len(set(words)) < max(2, len(words)):
            raise ValueError(f"words must be at least two different words, or null for all, got {words}")
        if train_size is not None and train_size < 1:
            raise ValueError(f"train_size must be an integer of at least 1, got {train_size}")
        self.form, self.rate, self.given_words, self.train_size = form, rate, words, train_size

    @cached_property
    def folder(self) -> Path:
        """Folder of the words."""
        paths = [self.root / folder for folder in FOLDERS]
        found = next((path for path in paths if (path / LISTS["test"]).is_file()), None)
        if found is None:
            raise DataError(
                f"Speech Commands is missing (searched {', '.join(str(path / LISTS['test']) for path in paths)}). Put "
                "it there, for example by torchaudio.datasets.SPEECHCOMMANDS, or set --data.root."
            )
        return found

    @cached_property
    def words(self) -> list[str]:
        """Words in the order of their class numbers: alphabetical, or as given."""
        found = sorted(path.name for path in self.folder.iterdir() if path.is_dir() and path.name[0] not in "_.")
        if missing := set(self.given_words or ()) - set(found):
            raise DataError(f"{self.folder} has no folder for {', '.join(sorted(missing))}; it has {', '.join(found)}")
        return self.given_words or found

    @property
    def input_size(self) -> int:
        """Number of mel bands, or 1 for raw sound."""
        return BANDS if self.form == "spectra" else 1

    @property
    def num_classes(self) -> int:
        """Number of words."""
        return len(self.words)

    @property
    def description(self) -> dict[str, Any]:
        spectra = f"log power in {BANDS} mel bands, windows of {WINDOW} samples every {HOP}"
        return {
            "form": spectra if self.form == "spectra" else f"samples at {self.rate} Hz",
            "words": self.words,
            "scaling": f"standardized by {min(SAMPLE, len(self.train)):,} training recordings",
            "split": {part: len(getattr(self, part)) for part in ("train", "validation", "test")},
            "majority_accuracy": majority_accuracy(self.train.targets, self._evaluated_labels()),
        }

    def baselines(self) -> dict[str, float]:
        return frequency_losses(self.train.targets, self._evaluated_labels(), self.num_classes)

    def setup(self, stage: str | None = None) -> None:
        clips = self._clips()
        # numpy guarantees the same draws in every version for RandomState only
        order = np.random.RandomState(0).permutation(len(clips["train"]))
        if self.train_size is not None and self.train_size > len(order):
            raise DataError(f"train_size must be at most {len(order):,}, got {self.train_size}")
        clips["train"] = [clips["train"][number] for number in order[: self.train_size]]
        self.train, self.validation, self.test = (
            Sounds(clips[part], self.form, self.rate) for part in ("train", "validation", "test")
        )
        sample_BTI = self.train.features(range(min(SAMPLE, len(self.train))))
        mean, deviation = sample_BTI.mean((0, 1)), sample_BTI.std((0, 1)).clamp(min=FLOOR)
        for dataset in (self.train, self.validation, self.test):
            dataset.mean, dataset.deviation = mean, deviation

    def _clips(self) -> dict[str, list[Clip]]:
        """Return the files of each part."""
        listed: dict[str, str] = {}
        for part, name in LISTS.items():
            try:
                listed |= dict.fromkeys((self.folder / name).read_text(encoding="utf-8").split(), part)
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{self.folder / name} cannot be read: {error}") from error
        clips: dict[str, list[Clip]] = {"train": [], "validation": [], "test": []}
        for target, word in enumerate(self.words):
            for path in sorted((self.folder / word).glob("*.wav")):
                clips[listed.get(f"{word}/{path.name}", "train")].append(Clip(path, target))
        if empty := [part for part, found in clips.items() if not found]:
            raise DataError(f"{self.folder} must have recordings of each part, got none for {', '.join(empty)}")
        return clips

    def _evaluated_labels(self) -> dict[str, Tensor]:
        return {"validation": self.validation.targets, "test": self.test.targets}

    def _reading(self) -> dict[str, Any]:
        return super()._reading() | {"words": self.words, "train_size": self.train_size}


def _read(path: Path) -> Tensor:
    """Return one second of sound (N,) in [-1, 1]."""
    try:
        sound_N, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if rate != RATE or sound_N.ndim != 1:
        raise DataError(f"{path} must have one channel at {RATE} Hz, got shape {sound_N.shape} at {rate} Hz")
    return F.pad(torch.from_numpy(sound_N[:RATE]), (0, max(0, RATE - len(sound_N))))


def _log_mel(sounds_BN: Tensor) -> Tensor:
    """Return the natural logarithm of the power in mel bands (B, T, I)."""
    from torchaudio.functional import melscale_fbanks, spectrogram

    power_BFT = spectrogram(sounds_BN, 0, torch.hann_window(WINDOW), WINDOW, HOP, WINDOW, power=2.0, normalized=False)
    bands_FI = melscale_fbanks(WINDOW // 2 + 1, 0.0, RATE / 2, BANDS, RATE)
    log_BTI: Tensor = (power_BFT.transpose(1, 2) @ bands_FI + FLOOR).log()
    return log_BTI
