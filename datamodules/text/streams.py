"""Long texts as streams: side by side in rows, read window by window, so that a state can be carried on.

Shapes: R rows of a stream, B those of this process, T steps of a window, N tokens of a text, L = N // R of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from datamodules.base import Batch

IGNORED = -100  # as a target: counts for nothing (what torch's cross_entropy ignores)


class Window(NamedTuple):
    """Steps ``start`` to ``stop`` of every row."""

    start: int
    stop: int


class Rows(Dataset[Batch]):
    """A text cut into ``rows`` pieces of equal length, each a contiguous text, of which this process reads some.

    Row r holds the tokens r L to (r+1) L. The processes share the rows in order, as evenly as may be; one that has none
    (the test text is a single row) reads its first token, with targets that count for nothing, so that it takes part
    in all that the processes do together. The N - R L tokens at the end that would not fill the rows are left out.

    Args:
        tokens: The text.
        rows: R, over all processes.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, tokens: np.ndarray, rows: int, rank: int = 0, world_size: int = 1) -> None:
        length = len(tokens) // rows
        bounds = [rows * process // world_size for process in range(world_size + 1)]
        self.steps = length - 1  # the last token of a row is a target only
        self.tokens_BL = tokens[: rows * length].reshape(rows, length)[bounds[rank] : bounds[rank + 1]]

    def __getitem__(self, window: Window) -> Batch:
        start, stop = window
        reset = torch.full((max(1, len(self.tokens_BL)),), start == 0)
        if not len(self.tokens_BL):
            blank_1T = torch.zeros(1, stop - start, dtype=torch.int64)
            return {"inputs": blank_1T, "targets": blank_1T + IGNORED, "reset": reset}
        tokens = torch.as_tensor(self.tokens_BL[:, start : stop + 1].astype(np.int64))
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "reset": reset}

    __getitems__ = __getitem__  # what a DataLoader asks for with what the batch sampler gives: here, a window


class Windows(Sampler[Window]):
    """Windows of one length, and a shorter one at the end; the order of evaluation."""

    def __init__(self, steps: int, length: int) -> None:
        self.steps = steps
        self.length = length

    def __iter__(self) -> Iterator[Window]:
        for start in range(0, self.steps, self.length):
            yield Window(start, min(start + self.length, self.steps))

    def __len__(self) -> int:
        return -(-self.steps // self.length)


class TrainingWindows(Sampler[Window]):
    """Windows of random length, so that a text is not cut at the same places in each epoch; or all of one length.

    A random window is max(5, N(m, 5)) steps long, rounded down, where m is ``length``, or half of it with probability
    0.05. Draws depend on seed and epoch only: all processes cut alike, and a run can go on anywhere in an epoch. How
    many windows an epoch has is not the same in all of them, so there is no ``__len__``, and Lightning looks one batch
    ahead.

    Source: Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018.

    Args:
        steps: Steps of a row.
        length: The usual length.
        seed: Seed of the draws.
        random: Whether the lengths are random.

    Attributes:
        epoch: The epoch whose windows are read.
        start: Windows of this epoch that are done already and left out.
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
        """This object: Lightning tells the epoch to the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Read the windows of another epoch, from its start."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[Window]:
        yield from self.windows(self.epoch)[self.start :]

    def windows(self, epoch: int) -> list[Window]:
        """All windows of an epoch."""
        if not self.random:
            return list(Windows(self.steps, self.length))
        # not numpy's new generators: RandomState draws the same in every version
        random = np.random.RandomState([self.seed, epoch])
        windows, start = [], 0
        while start < self.steps:
            mean = self.length / 2 if random.random_sample() < self.half_probability else self.length
            stop = min(self.steps, start + max(self.shortest, int(random.normal(mean, self.deviation))))
            windows.append(Window(start, stop))
            start = stop
        return windows
