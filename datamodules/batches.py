"""Batches of indices: order of an epoch, share of each process, resuming within an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

POOL = 32  # global batches sorted by length together: little padding, and batches still differ between epochs


class Batches(Sampler[list[int]]):
    """Batch sampler whose batches are shared among processes, for ``DataLoader(batch_sampler=...)``.

    Shuffled (training): the order depends on seed and epoch only. A global batch is ``batch_size`` x ``world_size``
    consecutive examples, and each process takes equally many of them. Several processes therefore read the same
    batches as one process with a larger batch size. The last global batch is truncated to a multiple of ``world_size``.
    Not shuffled (evaluation): examples keep their order. Each process reads a contiguous part, and each example is
    read exactly once.

    Args:
        size: Number of examples.
        batch_size: Examples in a batch of one process.
        shuffle: Whether each epoch has a different order.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of processes.
        lengths: Lengths of the examples. Pools of consecutive shuffled batches are then sorted by length, and their
            batches shuffled again, so that a batch has examples of similar length. None: ignore lengths.

    Attributes:
        epoch: Current epoch.
        start: Batches to skip at the start of this epoch, because they are finished.

    Raises:
        ValueError: There are fewer examples than processes, or the number of lengths is not that of the examples.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        lengths: Sequence[int] | None = None,
    ) -> None:
        if size < world_size:
            raise ValueError(f"the number of examples must be at least that of processes, {world_size}, got {size}")
        if lengths is not None and len(lengths) != size:
            raise ValueError(f"lengths must have one entry for each of the {size} examples, got {len(lengths)}")
        self.size = size
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> Batches:
        """This object, because Lightning sets the epoch on the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Switch to the order of this epoch, from its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Return the number of batches of this process in a whole epoch."""
        if not self.shuffle:
            return -(-len(self._piece()) // self.batch_size)
        full, rest = divmod(self.size, self.batch_size * self.world_size)
        return full + (rest >= self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        if self.shuffle:
            shares = [self._share(batch) for batch in self._global_batches()]
        else:
            shares = _cut(self._piece(), self.batch_size)
        yield from [share.tolist() for share in shares if len(share)][self.start :]

    def _piece(self) -> np.ndarray:
        """Return the indices that this process reads in an evaluation."""
        first, end = (self.size * process // self.world_size for process in (self.rank, self.rank + 1))
        return np.arange(first, end)

    def _share(self, batch: np.ndarray) -> np.ndarray:
        """Return this process's share of a global batch. Neighbors go to different processes to balance lengths."""
        return batch[self.rank : len(batch) - len(batch) % self.world_size : self.world_size]

    def _global_batches(self) -> list[np.ndarray]:
        # numpy guarantees the same draws in every version for RandomState only
        random = np.random.RandomState([self.seed, self.epoch])
        order = random.permutation(self.size)
        together = self.batch_size * self.world_size
        if self.lengths is None:
            return _cut(order, together)
        batches = []
        for members in _cut(order, POOL * together):
            batches += _cut(members[np.argsort(self.lengths[members], kind="stable")], together)
        return [batches[number] for number in random.permutation(len(batches))]


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Return consecutive pieces of this size; the last one may be smaller."""
    return [order[first : first + size] for first in range(0, len(order), size)]
