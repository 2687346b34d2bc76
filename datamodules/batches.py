"""Which examples make up which batch: the order of an epoch, the share of each process, and where to go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

POOL = 32  # global batches that are sorted by length together: little padding, and the order still differs by epoch


class Batches(Sampler[list[int]]):
    """The batches of a data set as lists of indices, for ``DataLoader(batch_sampler=...)``.

    ``batch_size`` x ``world_size`` consecutive examples of the epoch's order are a global batch, of which each process
    takes its share, so several processes together read what one with larger batches reads.

    Shuffled (training), the order depends on the seed and the epoch only, and every process takes equally many examples
    of each global batch: what an incomplete last one holds beyond a multiple of ``world_size`` is left out. Not
    shuffled (evaluation), the examples keep their order, and each is read exactly once by one process.

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
        full, rest = divmod(self.size, self.batch_size * self.world_size)
        needed = self.world_size if self.shuffle else self.rank + 1  # examples that the last global batch must hold
        return full + (rest >= needed)

    def __iter__(self) -> Iterator[list[int]]:
        shares = [self._share(batch) for batch in self._global_batches()]
        yield from [share.tolist() for share in shares if len(share)][self.start :]

    def _share(self, batch: np.ndarray) -> np.ndarray:
        """The examples of a global batch that this process reads."""
        shared = len(batch) - len(batch) % self.world_size if self.shuffle else len(batch)
        return batch[self.rank : shared : self.world_size]

    def _global_batches(self) -> list[np.ndarray]:
        if not self.shuffle:
            return self._cut(np.arange(self.size))
        # not numpy's new generators: RandomState draws the same in every version
        random = np.random.RandomState([self.seed, self.epoch])
        order = random.permutation(self.size)
        if self.lengths is None:
            return self._cut(order)
        pool = POOL * self.batch_size * self.world_size
        batches = []
        for first in range(0, self.size, pool):
            members = order[first : first + pool]
            batches += self._cut(members[np.argsort(self.lengths[members], kind="stable")])
        return [batches[number] for number in random.permutation(len(batches))]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        together = self.batch_size * self.world_size
        return [order[first : first + together] for first in range(0, len(order), together)]
