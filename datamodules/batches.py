"""Which examples make up which batch: the order of an epoch, the share of each process, and where to go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

POOL = 32  # global batches that are sorted by length together: little padding, and the order still differs by epoch


class Batches(Sampler[list[int]]):
    """The batches of a data set as lists of indices, for ``DataLoader(batch_sampler=...)``.

    Shuffled (training), the order depends on the seed and the epoch only. ``batch_size`` x ``world_size`` consecutive
    examples of it are a global batch, of which every process takes equally many, so several processes together read
    what one with larger batches reads; what an incomplete last one holds beyond a multiple of ``world_size`` is left
    out. Not shuffled (evaluation), the examples keep their order, and each process reads a piece of it, so that each
    example is read exactly once.

    Args:
        size: Number of examples.
        batch_size: Examples in a batch of one process.
        shuffle: Whether each epoch has another order.
        seed: Seed of the orders.
        rank: Number of this process.
        world_size: Number of processes.
        lengths: Of the examples, where those of a shuffled batch are to be of similar length: pools of consecutive
            batches are sorted by length, and the batches are shuffled after that.

    Attributes:
        epoch: The epoch whose order is read.
        start: Batches of this epoch that are done already and left out.

    Raises:
        ValueError: if there are fewer examples than processes, or not as many lengths as examples.
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
            raise ValueError(f"{size} examples cannot be shared by {world_size} processes; one for each is expected")
        if lengths is not None and len(lengths) != size:
            raise ValueError(f"there are {len(lengths)} lengths; {size}, one for each example, are expected")
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
        """This object: Lightning tells the epoch to the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Read the order of another epoch, from its start."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Batches of this process in a whole epoch."""
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
        """What this process reads in an evaluation."""
        first, end = (self.size * process // self.world_size for process in (self.rank, self.rank + 1))
        return np.arange(first, end)

    def _share(self, batch: np.ndarray) -> np.ndarray:
        """What this process reads of a global batch; neighbours go to different ones, so lengths are spread evenly."""
        return batch[self.rank : len(batch) - len(batch) % self.world_size : self.world_size]

    def _global_batches(self) -> list[np.ndarray]:
        # not numpy's new generators: RandomState draws the same in every version
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
    """Pieces of this size, the last one perhaps smaller."""
    return [order[first : first + size] for first in range(0, len(order), size)]
