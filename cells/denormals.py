"""Denormal numbers on the CPU, which may be replaced by 0.

Vanishing gradients become denormal, and some processors compute with denormal numbers up to 15 times slower. The
setting belongs to a thread, and a new thread starts with that of its creator. Backward passes on the CPU run in the
calling thread, and the threads of OpenMP start at the first parallel operation. It is therefore enough for a program to
set it in the main thread before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DENORMAL = 1e-310  # the smallest normal number is 2.2e-308


def flushes_denormals() -> bool:
    """Return whether this thread replaces denormal numbers by 0."""
    return DENORMAL * 0.5 == 0  # Python's numbers are computed by the same unit of the processor


@contextmanager
def denormal_setting_restored() -> Iterator[None]:
    """Restore at the end of the block whether this thread replaces denormal numbers by 0."""
    before = flushes_denormals()
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
