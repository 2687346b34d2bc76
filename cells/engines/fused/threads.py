"""The threads of the fused engine: each takes a block of rows and computes the whole sequence of it.

Rows are independent, so the threads never wait for one another within a sequence; a per-step loop with OpenMP waits at
every operation, and slows down many times when another program uses the processor. Compiled code runs without Python's
lock.

The threads are those of torch's OpenMP. They keep a processor busy for some milliseconds after each operation of torch,
in case another one follows, and threads besides them would have to share it. Where OpenMP has another interface than
GNU's, and in a forked process, which has none of its parent's threads, a pool of Python's threads does the work.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from cells.denormals import denormal_setting_restored

Item = TypeVar("Item")
_OUTLINED = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pools: dict[int, ThreadPoolExecutor] = {}
_forked = False


def run_blocks(function: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
    """Call ``function`` with each of ``items``, on at most ``threads`` threads.

    Denormal numbers are replaced by 0 meanwhile.
    """
    waiting = iter(items)  # shared by the threads
    errors: list[BaseException] = []

    def work(_: object = None) -> None:
        try:
            with denormal_setting_restored():
                torch.set_flush_denormal(True)
                for item in waiting:
                    function(item)
        except BaseException as error:  # nothing may leave a function that OpenMP calls
            errors.append(error)

    threads = min(threads, len(items))
    if threads == 1:
        work()
    elif (team := _team()) is not None:
        team(_OUTLINED(work), None, threads, 0)
    else:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads, "fused")
        for result in [_pools[threads].submit(work) for _ in range(threads)]:
            result.result()
    if errors:
        raise errors[0]


def _team() -> Callable[..., None] | None:
    """Return GNU's function that calls another one in each thread of a team, if torch's OpenMP has it."""
    return None if _forked else getattr(_torch_library(), "GOMP_parallel", None)


@functools.cache
def _torch_library() -> ctypes.CDLL | None:
    """Return torch's own library; it also finds the functions of those that this one needs."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    return None


def _forget_threads() -> None:
    global _forked
    _forked = True
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
