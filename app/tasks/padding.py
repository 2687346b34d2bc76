"""Batches of sequences that are padded to the same length.

Shapes: B batch, T time, H features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules import Batch


def valid_steps(batch: Batch) -> Tensor:
    """Return a mask (B, T) that is True before each sequence's length, or everywhere without ``lengths``."""
    count, steps = batch["inputs"].shape[:2]
    lengths_B = batch.get("lengths", torch.tensor([steps] * count)).to(batch["inputs"].device)
    return torch.arange(steps, device=lengths_B.device) < lengths_B[:, None]


def last_step(y_BTH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return the features (B, H) at each sequence's last valid step, or at step T without ``lengths_B``."""
    if lengths_B is None:
        return y_BTH[:, -1]
    return y_BTH[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1]
