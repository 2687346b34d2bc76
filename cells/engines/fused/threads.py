"""The threads of the fused engine: each takes a block of rows and computes the whole sequence of it.

Rows are independent, so the threads never wait for one another within a sequence; a per-step loop with OpenMP waits at
every operation, and slows down many times when another program uses the processor. Compiled code runs without Python's
lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from cells.engines.fused.blas import set_threads

_pools: dict[int, ThreadPoolExecutor] = {}


def run_blocks(function: Callable[..., None], blocks: Iterable[tuple[Any, ...]], threads: int) -> None:
    """Call ``function`` with each of ``blocks``, on ``threads`` threads."""
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, "fused", initializer=_prepare)
    for result in [_pools[threads].submit(function, *block) for block in blocks]:
        result.result()


def _prepare() -> None:
    """Prepare a thread: products in one thread each, and no denormal numbers, which are up to 15 times slower."""
    set_threads(1)
    torch.set_flush_denormal(True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork
