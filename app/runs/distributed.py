"""Communication between the processes of a run."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import torch

FIRST = "APP_FIRST_PROCESS"  # environment variable with the id of the process that starts the others


def of_every_process(own: Any) -> list[Any]:
    """Return the arguments of all processes in the order of their ranks.

    Every process must call it. Tensors must be on the CPU.
    """
    if not torch.distributed.is_initialized():
        return [own]
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, own)
    return every


def end_with_first(launched: bool, status: int) -> None:
    """End a process that the first one ``launched`` soon after the first one ended, not after torch's 30 minutes."""
    if not launched:
        os.environ[FIRST] = str(os.getpid())
        return

    def watch() -> None:
        while os.getppid() == int(os.environ[FIRST]):
            time.sleep(1)
        os.write(2, b"error: the first process of the run has ended\n")
        os._exit(status)

    threading.Thread(target=watch, daemon=True).start()
