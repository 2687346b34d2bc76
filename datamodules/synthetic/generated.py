"""Data that a rule makes of random numbers: fresh in each epoch, and the same on every machine.

Example n of a part of the data is made of the numbers at place n of a counter-based generator, so it depends on the
seed and on n alone: not on the batch, the process or the machine that asks for it, nor on what was asked for before.

Shapes: B examples, N random numbers of an example.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.base import Batch, DataModule, run_seed
from datamodules.batches import Batches

PARTS = ("train", "validation", "test")
Rule = Callable[[np.ndarray], Batch]  # a batch of B examples made of numbers (B, N) in [0, 1)


class GeneratedDataset(Dataset[Batch]):
    """Examples made of the stream of random numbers that ``seed`` and ``part`` name; there is no last one.

    The generator is Philox 4x64 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011):
    its key is (seed, part), and example n has the counters (k, n, 0, 0), k = 1, 2, ... Its raw words of 64 bits are
    used, which numpy keeps the same in all versions.

    Args:
        rule: Makes a batch of the numbers (B, N).
        numbers: N.
        size: How many examples are called the data set: what ``len`` gives.
        seed: Which stream.
        part: Which of the independent streams of the seed.
    """

    def __init__(self, rule: Rule, numbers: int, size: int, seed: int, part: int) -> None:
        self.rule, self.numbers, self.size = rule, numbers, size
        self.key = np.array([seed, part], dtype=np.uint64)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once: what DataLoader asks for where it exists."""
        raw_BN = np.stack(
            [np.random.Philox(key=self.key, counter=(0, index, 0, 0)).random_raw(self.numbers) for index in indices]
        )
        return self.rule((raw_BN >> np.uint64(11)) * 2.0**-53)


class FreshBatches(Batches):
    """Epoch e reads the examples from e ``size`` on, ``size`` of them, so that none comes twice."""

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.size
        for batch in super().__iter__():
            yield [first + index for index in batch]


class Generated(DataModule):
    """Data made by :meth:`rule` of random numbers: training examples fresh in each epoch, fixed ones to measure by.

    Validation and test examples are the same in all runs; those of training come from the run's seed, or from ``seed``.

    Args:
        root: Not used: nothing is read.
        batch_size: Sequences in a batch (of each process).
        train_size: Training examples in what is called an epoch, after which the model is measured.
        validation_size: Validation examples.
        test_size: Test examples.
        seed: Which training examples; None: those of the run's seed.

    Attributes:
        numbers: How many random numbers an example is made of.

    Raises:
        ValueError: if an argument lies outside what is accepted.
    """

    training_order = FreshBatches
    numbers: int

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        train_size: int = 12_800,
        validation_size: int = 1_000,
        test_size: int = 5_000,
        seed: int | None = None,
    ) -> None:
        super().__init__(root, batch_size)
        for name, size in (("train_size", train_size), ("validation_size", validation_size), ("test_size", test_size)):
            if size < 1:
                raise ValueError(f"{name} is {size}; an integer of at least 1 is expected")
        if seed is not None and not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}; an integer in [0, 2**32), or null for the seed of the run, is expected")
        self.sizes = dict(zip(PARTS, (train_size, validation_size, test_size), strict=True))
        self.seed = seed

    @abstractmethod
    def rule(self, numbers_BN: np.ndarray) -> Batch:
        """A batch of B examples, made of ``numbers`` independent numbers in [0, 1) each."""

    @property
    def description(self) -> dict[str, Any]:
        return {"generator": "Philox 4x64", "seed_of_training": self._seed(), "split": self.sizes}

    def setup(self, stage: str | None = None) -> None:
        self.train, self.validation, self.test = (
            GeneratedDataset(self.rule, self.numbers, self.sizes[part], self._seed() if number == 0 else 0, number)
            for number, part in enumerate(PARTS)
        )

    def _reading(self) -> dict[str, Any]:
        return super()._reading() | {"train_size": self.sizes["train"], "data_seed": self._seed()}

    def _seed(self) -> int:
        return (run_seed() or 0) if self.seed is None else self.seed
