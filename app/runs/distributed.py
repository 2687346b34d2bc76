"""What the processes of a run tell one another."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import torch

FIRST = "APP_FIRST_PROCESS"  # environment variable with the number of the process that starts others


def of_every_process(own: Any) -> list[Any]:
    """What each process gives here, that of the first one first; each must call it. Tensors are to lie on the CPU."""
    if not torch.distributed.is_initialized():
        return [own]
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, own)
    return every


def end_with_first(launched: bool, status: int) -> None:
    """End a process that the first one has ``launched`` soon after that one: it would wait for it for half an hour."""
    if not launched:
        os.environ[FIRST] = str(os.getpid())
        return

    def watch() -> None:
        while os.getppid() == int(os.environ[FIRST]):
            time.sleep(1)
        os.write(2, b"error: the first process of the run has ended\n")
        os._exit(status)

    threading.Thread(target=watch, daemon=True).start()
