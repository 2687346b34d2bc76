"""Long texts as parallel rows, read in windows for truncated back-propagation through time.

Shapes: R rows of a text, B rows of this process, T steps of a window, N tokens of a text, L = N // R tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from datamodules.base import Batch

IGNORED = -100  # target that does not count: the ignore_index of torch's cross_entropy


class Window(NamedTuple):
    """Steps ``start`` to ``stop`` of every row."""

    start: int
    stop: int


class Rows(Dataset[Batch]):
    """Rows of a text that this process reads.

    The text is divided into R contiguous rows of equal length: row r holds the tokens r L to (r+1) L. The last N - R L
    tokens are left out. The processes share the rows in order, as evenly as possible. A process without a row reads
    blanks whose targets do not count, so that it takes part in all collective operations.

    Args:
        tokens: Text as word numbers.
        rows: Number of rows R, over all processes.
        rank: Rank of this process.
        world_size: Number of processes.

    Attributes:
        count: R.
        steps: Steps of a row, L - 1, because the last token of a row is a target only.
    """

    def __init__(self, tokens: np.ndarray, rows: int, rank: int = 0, world_size: int = 1) -> None:
        length = len(tokens) // rows
        bounds = [rows * process // world_size for process in range(world_size + 1)]
        self.count = rows
        self.steps = length - 1
        self.tokens_BL = tokens[: rows * length].reshape(rows, length)[bounds[rank] : bounds[rank + 1]]

    def __getitem__(self, window: Window) -> Batch:
        start, stop = window
        reset = torch.full((max(1, len(self.tokens_BL)),), start == 0)
        if not len(self.tokens_BL):
            blank_1T = torch.zeros(1, stop - start, dtype=torch.int64)
            return {"inputs": blank_1T, "targets": blank_1T + IGNORED, "reset": reset}
        tokens = torch.as_tensor(self.tokens_BL[:, start : stop + 1].astype(np.int64))
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "reset": reset}

    __getitems__ = __getitem__  # DataLoader calls it with an element of the batch sampler, here a window


class Windows(Sampler[Window]):
    """Windows of one length, with a shorter one at the end, for evaluation."""

    def __init__(self, steps: int, length: int) -> None:
        self.steps = steps
        self.length = length

    def __iter__(self) -> Iterator[Window]:
        for start in range(0, self.steps, self.length):
            yield Window(start, min(start + self.length, self.steps))

    def __len__(self) -> int:
        return -(-self.steps // self.length)


class TrainingWindows(Sampler[Window]):
    """Windows of random or constant length, for training.

    The length of a random window is max(5, N(m, 5)), rounded down, where m is ``length``, or half of it with
    probability 0.05. The boundaries therefore differ between epochs. They depend on seed and epoch only, so they are
    the same in all processes, and a run can resume within an epoch. The number of windows differs between epochs, so
    there is no ``__len__``, and Lightning prefetches one batch.

    Source: Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018.

    Args:
        steps: Steps of a row.
        length: Usual length.
        seed: Seed of the lengths.
        random: Whether the lengths are random.

    Attributes:
        epoch: Current epoch.
        start: Windows to skip at the start of this epoch, because they are finished.
    """

    half_probability, deviation, shortest = 0.05, 5.0, 5

    def __init__(self, steps: int, length: int, *, seed: int = 0, random: bool = True) -> None:
        self.steps = steps
        self.length = length
        self.seed = seed
        self.random = random
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> TrainingWindows:
        """This object, because Lightning sets the epoch on the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Switch to the windows of this epoch, from the first one."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[Window]:
        yield from self.windows(self.epoch)[self.start :]

    def windows(self, epoch: int) -> list[Window]:
        """Return all windows of an epoch."""
        if not self.random:
            return list(Windows(self.steps, self.length))
        # numpy guarantees the same draws in every version for RandomState only
        random = np.random.RandomState([self.seed, epoch])
        windows, start = [], 0
        while start < self.steps:
            mean = self.length / 2 if random.random_sample() < self.half_probability else self.length
            stop = min(self.steps, start + max(self.shortest, int(random.normal(mean, self.deviation))))
            windows.append(Window(start, stop))
            start = stop
        return windows
