"""Classification of time series from the UCR and UEA archives.

Shapes: B examples, T steps, I channels, N training steps of all series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from datamodules.base import Batch, DataError, DataModule
from datamodules.labels import frequency_losses, majority_accuracy
from datamodules.time_series.ts_files import SeriesFile, read_ts


class SeriesDataset(Dataset[Batch]):
    """Series of different lengths in memory. A batch is padded with zeros to its longest series.

    Args:
        series: The series, each (T, I).
        targets: Class (B,) of each series.
    """

    def __init__(self, series: Sequence[Tensor], targets: Tensor) -> None:
        self.series, self.targets = series, targets
        self.lengths = torch.tensor([len(x_TI) for x_TI in series])

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch. DataLoader calls this method where it exists."""
        rows = torch.as_tensor(indices)
        padded_BTI = pad_sequence([self.series[index] for index in indices], batch_first=True)
        return {"inputs": padded_BTI, "targets": self.targets[rows], "lengths": self.lengths[rows]}


class TimeSeries(DataModule):
    """A classification problem of the UCR or UEA archive, with series of one or more channels and of any lengths.

    The files ``NAME_TRAIN.ts`` and ``NAME_TEST.ts`` are searched in the root folder and in ``NAME`` and
    ``time_series/NAME`` below it. Nothing is downloaded. Each channel is standardized by the mean and the standard
    deviation of all its steps in the training series. Validation series are drawn from the training file, the same
    share of each class.

    Sources: Dau et al., "The UCR time series archive", 2019; Bagnall et al., "The UEA multivariate time series
    classification archive, 2018"; timeseriesclassification.com.

    Args:
        root: Folder of the data; None: the environment variable DATA_DIR, else ``data``.
        batch_size: Series in a batch of each process.
        name: Name of the problem, as in the names of its files.
        validation_fraction: Share of the training file for validation, at least one series of each class.
        split_seed: Seed of the choice of validation series; the seed of the run does not change it.
        missing: What to do with missing values. ``refuse``: they are an error. ``interpolate``: linear interpolation
            within the channel, and the nearest value at its ends.

    Raises:
        ValueError: An argument is outside its range.
        DataError: During setup: a file is missing or cannot be read, the files do not fit together, a value is missing
            and ``missing`` is ``refuse``, or a class has one training series only.
    """

    provided_sizes = ("input_size", "num_classes")
    train: SeriesDataset
    validation: SeriesDataset
    test: SeriesDataset

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 32,
        name: str = "JapaneseVowels",
        validation_fraction: float = 0.2,
        split_seed: int = 0,
        missing: Literal["refuse", "interpolate"] = "refuse",
    ) -> None:
        super().__init__(root, batch_size)
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in (0, 1), got {validation_fraction}")
        if not 0 <= split_seed < 2**32:
            raise ValueError(f"split_seed must be an integer in [0, 2**32), got {split_seed}")
        if missing not in ("refuse", "interpolate"):
            raise ValueError(f"missing must be one of refuse, interpolate, got {missing!r}")
        self.problem = name
        self.validation_fraction = validation_fraction
        self.split_seed = split_seed
        self.missing = missing
        self._files: dict[str, SeriesFile] = {}

    @property
    def input_size(self) -> int:
        """Number of channels."""
        return int(self._file("TRAIN").series[0].shape[1])

    @property
    def num_classes(self) -> int:
        """Number of labels in the header of the training file."""
        return len(self._file("TRAIN").classes)

    @property
    def description(self) -> dict[str, Any]:
        parts = {part: getattr(self, part) for part in ("train", "validation", "test")}
        return {
            "problem": self.problem,
            "classes": self._file("TRAIN").classes,
            "scaling": "each channel standardized by the training series",
            "missing": self.missing,
            "split": {part: len(dataset) for part, dataset in parts.items()} | {"seed": self.split_seed},
            "lengths": {part: [int(x.lengths.min()), int(x.lengths.max())] for part, x in parts.items()},
            "majority_accuracy": majority_accuracy(self.train.targets, self._evaluated_labels()),
        }

    def baselines(self) -> dict[str, float]:
        return frequency_losses(self.train.targets, self._evaluated_labels(), self.num_classes)

    def setup(self, stage: str | None = None) -> None:
        training, test = self._file("TRAIN"), self._file("TEST")
        channels = training.series[0].shape[1], test.series[0].shape[1]
        if channels[0] != channels[1] or training.classes != test.classes:
            raise DataError(
                f"{self.problem}_TRAIN.ts and {self.problem}_TEST.ts must have the same channels and classes, got "
                f"{channels[0]} and {channels[1]} channels, classes {training.classes} and {test.classes}"
            )
        targets, test_targets = _targets(training), _targets(test)
        held_out = self._validation_rows(targets)
        rest = np.setdiff1d(np.arange(len(targets)), held_out)
        series = [self._complete(array_TI, "TRAIN", number) for number, array_TI in enumerate(training.series)]
        steps_NI = np.concatenate([series[row] for row in rest])
        mean_I, deviation_I = steps_NI.mean(0), steps_NI.std(0)
        deviation_I[deviation_I == 0] = 1  # a constant channel
        test_series = [self._complete(array_TI, "TEST", number) for number, array_TI in enumerate(test.series)]

        def dataset(arrays: Sequence[np.ndarray], targets: np.ndarray) -> SeriesDataset:
            scaled = [torch.as_tensor((array_TI - mean_I) / deviation_I, dtype=torch.float32) for array_TI in arrays]
            return SeriesDataset(scaled, torch.as_tensor(targets))

        self.train = dataset([series[row] for row in rest], targets[rest])
        self.validation = dataset([series[row] for row in held_out], targets[held_out])
        self.test = dataset(test_series, test_targets)

    def _evaluated_labels(self) -> dict[str, Tensor]:
        return {"validation": self.validation.targets, "test": self.test.targets}

    def _reading(self) -> dict[str, Any]:
        split = {"validation_fraction": self.validation_fraction, "split_seed": self.split_seed}
        return super()._reading() | {"name": self.problem, **split}

    def _validation_rows(self, targets_B: np.ndarray) -> np.ndarray:
        """Return the rows of the validation series: a share of each class."""
        # numpy guarantees the same draws in every version for RandomState only
        random = np.random.RandomState(self.split_seed)
        chosen = []
        for label in np.unique(targets_B):
            rows = random.permutation(np.flatnonzero(targets_B == label))
            if len(rows) < 2:
                raise DataError(
                    f"{self.problem}_TRAIN.ts must have at least two series of class "
                    f"{self._file('TRAIN').classes[label]}, one of them for validation, got one"
                )
            count = round(self.validation_fraction * len(rows))
            chosen.append(rows[: min(max(count, 1), len(rows) - 1)])
        return np.sort(np.concatenate(chosen))

    def _complete(self, array_TI: np.ndarray, part: str, number: int) -> np.ndarray:
        """Return a series without missing values."""
        missing_TI = np.isnan(array_TI)
        if not missing_TI.any():
            return array_TI
        where = f"series {number + 1} of {self.problem}_{part}.ts"
        if self.missing == "refuse":
            raise DataError(f"{where} has missing values. Use --data.missing interpolate, or complete the file.")
        if missing_TI.all(0).any():
            raise DataError(f"{where} has a channel without any value, which cannot be interpolated")
        steps_T = np.arange(len(array_TI))
        columns = zip(array_TI.T, missing_TI.T, strict=True)
        return np.stack([np.interp(steps_T, steps_T[~gone], values[~gone]) for values, gone in columns], axis=1)

    def _file(self, part: str) -> SeriesFile:
        """Return the contents of NAME_TRAIN.ts or NAME_TEST.ts, read once."""
        if part not in self._files:
            self._files[part] = read_ts(self._find(f"{self.problem}_{part}.ts"))
        return self._files[part]

    def _find(self, file: str) -> Path:
        paths = [self.root / folder / file for folder in (self.problem, f"time_series/{self.problem}", ".")]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise DataError(
                f"{file} is missing (searched as {', '.join(map(str, paths))}). Put it there, for example from "
                "timeseriesclassification.com, or set --data.root."
            )
        return found


def _targets(file: SeriesFile) -> np.ndarray:
    """Return the class number (B,) of each series."""
    return np.array([file.classes.index(label) for label in file.labels])
