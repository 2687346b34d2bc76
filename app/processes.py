"""What the processes of a run tell one another."""

from __future__ import annotations

from typing import Any

import torch


def of_every_process(own: Any) -> list[Any]:
    """What each process gives here, that of the first one first; each must call it. Tensors are to lie on the CPU."""
    if not torch.distributed.is_initialized():
        return [own]
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, own)
    return every
