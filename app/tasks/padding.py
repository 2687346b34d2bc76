"""Batches of sequences that are padded to the same length.

Shapes: B batch, T time, H features of one direction, F features.
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


def last_step(y_BTF: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return the features (B, F) at each sequence's last valid step, or at step T without ``lengths_B``."""
    if lengths_B is None:
        return y_BTF[:, -1]
    return y_BTF[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1]


def both_ends(y_BTF: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return the features (B, F = 2 H) at the step that each direction of a bidirectional encoder reads last.

    They are the forward direction's H features at the last valid step, and the reverse direction's at the first step.
    """
    forward_BTH, reverse_BTH = y_BTF.chunk(2, -1)
    return torch.cat([last_step(forward_BTH, lengths_B), reverse_BTH[:, 0]], -1)
