"""Memory that is kept from one sequence to the next.

A training step needs the same large arrays as the one before. Taking them from the operating system again costs a
third of the step, so an array that is no longer used is kept for the next sequence of the same size.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

_lock = threading.RLock()  # a lease may die, by garbage collection, while its thread is in here
_idle: list[Tensor] = []
_limit = 2**30


def set_workspace_limit(size: int) -> None:
    """Set how many bytes of idle memory the fused engine keeps for later sequences, 1 GiB at first; 0 keeps none."""
    global _limit
    if size < 0:
        raise ValueError(f"size must be at least 0, got {size}")
    with _lock:
        _limit = size
        _shrink()


def _shrink() -> None:
    while _idle and sum(array.numel() for array in _idle) > _limit:
        _idle.pop(0)


class Lease:
    """An array of ``size`` bytes; it is given back when the lease dies."""

    def __init__(self, size: int) -> None:
        size = -(-size // 4096) * 4096
        self.array: Tensor | None = None
        with _lock:
            for place, array in enumerate(_idle):
                if array.numel() == size:
                    self.array = _idle.pop(place)
                    break
        if self.array is None:
            self.array = torch.empty(size, dtype=torch.uint8)

    def address(self) -> int:
        assert self.array is not None
        return self.array.data_ptr()

    def numbers(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the first numbers of the array; they are valid as long as the lease lives."""
        assert self.array is not None
        return self.array[: math.prod(shape) * dtype.itemsize].view(dtype).view(*shape)

    def __del__(self) -> None:
        array, self.array = self.array, None
        if array is not None and array.numel() <= _limit:
            with _lock:
                _idle.append(array)
                _shrink()
