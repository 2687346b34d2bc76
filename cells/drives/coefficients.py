"""Coefficients of a drive, fixed or learned within their bounds.

Shapes: C channels.
"""

from __future__ import annotations

from math import expm1, inf, log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cells.validation import number_in, one_of

Learn = Literal["none", "scalar", "unit"]


class Coefficient(nn.Module):
    """A positive number: fixed, or learned as high sig(raw) if it has an upper bound, else as softplus(raw).

    A call returns the number: a float if it is fixed, a tensor of one element (``scalar``) or of C (``unit``) if it is
    learned.

    Args:
        name: Name of the number in error messages.
        value: The number, or its value before training.
        high: Upper bound of a learned number, which it does not reach.
        learn: ``none``, ``scalar`` or ``unit``.
        channels: C.

    Raises:
        ValueError: if the initial value of a learned number is outside of (0, high).
    """

    def __init__(self, name: str, value: float, *, high: float = inf, learn: Learn = "none", channels: int = 1) -> None:
        super().__init__()
        self.value = value
        self.high = high
        self.raw: nn.Parameter | None = None
        if one_of("learn", learn, ("none", "scalar", "unit")) != "none":
            number_in(f"(0, {high:.7g})", f"learned {name}", value)
            start = log(value / (high - value)) if high < inf else value + log(-expm1(-value))
            self.raw = nn.Parameter(torch.full((1 if learn == "scalar" else channels,), start))

    def forward(self) -> float | Tensor:
        if self.raw is None:
            return self.value
        raw_C = self.raw.to(torch.promote_types(self.raw.dtype, torch.float32))
        return self.high * torch.sigmoid(raw_C) if self.high < inf else F.softplus(raw_C)

    def over_time(self, like: Tensor) -> Tensor:
        """Return the number as a tensor of three dimensions that broadcasts to the (B, T, C) of ``like``."""
        number = self()
        return number.view(1, 1, -1) if isinstance(number, Tensor) else like.new_full((1, 1, 1), number)

    def extra_repr(self) -> str:
        return f"{self.value}" if self.raw is None else f"{self.value}, learned in (0, {self.high:.7g})"


def largest(number: float | Tensor) -> float:
    """Return ``number``, or the largest entry of a tensor."""
    return number.max().item() if isinstance(number, Tensor) else number
