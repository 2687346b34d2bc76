"""The precision policy: drives, scans and orthogonal maps in float32 or higher; only products may be in less."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of ``tensor``, for everything that is not a matrix product."""
    if tensor.is_meta:  # which has no autocast. is_autocast_available() would say so, but torch.compile cannot trace it
        return nullcontext()
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def product_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype of matrix products with ``weight``: that of autocast, or its own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def full_precision(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float32, or in float64 if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
