"""Dividing the CPU cores and GPUs of a machine among workers."""

from __future__ import annotations

import os


def share(number: int, count: int) -> dict[str, str]:
    """Return the environment of worker ``number`` of ``count``: threads, and one GPU if there are any.

    Workers beyond the number of GPUs share them in turn.
    """
    threads = str(max(1, cores() // count))
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    if devices := gpus():
        environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    return environment


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the GPUs that this process may use, by number or by name."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
