"""Learning-rate schedules over a whole run."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

LRSchedule = Literal["constant", "one_cycle", "cosine"]


def make_schedule(name: LRSchedule, optimizer: Optimizer, steps: int) -> LRScheduler | None:
    """Return the schedule ``name`` over ``steps`` optimizer steps; None for ``constant``.

    ``one_cycle`` is OneCycleLR with the optimizer's learning rates as peaks. It also cycles the momentum if the
    optimizer has any. ``cosine`` is CosineAnnealingLR to 0.
    """
    if name == "constant":
        return None
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    peaks = [group["lr"] for group in optimizer.param_groups]
    has_momentum = not optimizer.defaults.keys().isdisjoint(("momentum", "betas"))
    return OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=has_momentum)
