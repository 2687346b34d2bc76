"""Denormal numbers on the CPU, which commands replace by 0.

Vanishing gradients become denormal, and some processors compute with denormal numbers up to 15 times slower. The
setting belongs to a thread, and a new thread starts with that of its creator. Backward passes on the CPU run in the
calling thread, and the threads of OpenMP start at the first parallel operation. It is therefore enough to set it in the
main thread before the task is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DENORMAL = 1e-310  # in float64, whose smallest normal number is 2.2e-308


def flushes_denormals() -> bool:
    """Return whether this thread replaces denormal numbers by 0."""
    return float(torch.tensor(DENORMAL, dtype=torch.float64) * 1) == 0


@contextmanager
def denormal_setting_restored() -> Iterator[None]:
    """Restore at the end of the block whether this thread replaces denormal numbers by 0."""
    before = flushes_denormals()
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
