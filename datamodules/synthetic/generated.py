"""Data generated from random numbers: new examples in each epoch, the same on every machine.

Example n is computed from position n of a counter-based random generator. It depends on the seed and on n only, not on
the batch, the process, the machine, or the examples read before.

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
Rule = Callable[[np.ndarray], Batch]  # makes a batch of B examples from numbers (B, N) in [0, 1)


class GeneratedDataset(Dataset[Batch]):
    """Unlimited examples, generated from the stream of random numbers of ``seed`` and ``part``.

    The generator is Philox 4x64 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011):
    its key is (seed, part), and example n has the counters (k, n, 0, 0), k = 1, 2, ... Only its raw 64-bit words are
    used, because numpy guarantees them in all versions.

    Args:
        rule: Function that makes a batch from numbers (B, N).
        numbers: Random numbers of an example, N.
        size: Number of examples that ``len`` returns.
        seed: Seed of the stream.
        part: Number of the independent stream of this seed.
    """

    def __init__(self, rule: Rule, numbers: int, size: int, seed: int, part: int) -> None:
        self.rule, self.numbers, self.size = rule, numbers, size
        self.key = np.array([seed, part], dtype=np.uint64)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch. DataLoader calls this method where it exists."""
        raw_BN = np.stack(
            [np.random.Philox(key=self.key, counter=(0, index, 0, 0)).random_raw(self.numbers) for index in indices]
        )
        return self.rule((raw_BN >> np.uint64(11)) * 2.0**-53)


class FreshBatches(Batches):
    """Batches of new examples: epoch e reads the ``size`` examples from number e x ``size`` on."""

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.size
        for batch in super().__iter__():
            yield [first + index for index in batch]


class Generated(DataModule):
    """Data module whose examples :meth:`rule` computes from random numbers.

    Training examples are new in each epoch; their seed is ``seed``, or that of the run. Validation and test examples
    are the same in all runs.

    Args:
        root: Not used.
        batch_size: Sequences in a batch of each process.
        train_size: Training examples of an epoch.
        validation_size: Validation examples.
        test_size: Test examples.
        seed: Seed of the training examples; None: the seed of the run.

    Attributes:
        numbers: Random numbers of an example.

    Raises:
        ValueError: An argument is outside its range.
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
                raise ValueError(f"{name} must be an integer of at least 1, got {size}")
        if seed is not None and not 0 <= seed < 2**32:
            raise ValueError(f"seed must be an integer in [0, 2**32), or null for the seed of the run, got {seed}")
        self.sizes = dict(zip(PARTS, (train_size, validation_size, test_size), strict=True))
        self.seed = seed

    @abstractmethod
    def rule(self, numbers_BN: np.ndarray) -> Batch:
        """Return a batch of B examples, each computed from ``numbers`` independent numbers in [0, 1)."""

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
