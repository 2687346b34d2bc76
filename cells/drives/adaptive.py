"""Drives that divide by the recent size of their input: RMSProp and Adam.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

import warnings
from math import inf, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from cells.drives.base import Drive
from cells.drives.coefficients import Coefficient, Learn, largest
from cells.engines.adaptive import adaptive
from cells.validation import number_in

DELTA = "[1e-18, inf)"  # below it the powers of delta in the backward pass leave the range of float32


class RMSProp(Drive):
    """m_t = beta m_{t-1} + (1-beta) a_t^2; v_t = step_size a_t / sqrt(m_t + delta).

    The drive is a_t in units of its own recent size. Where the input is silent its derivative is
    step_size / sqrt(delta), and this is a trap: an image that starts with black pixels gives a_t = b_ih there, and
    with delta = 1e-16 the gradient of the bias is 1e6 to 1e7 times that of the weights, so that clipping by the norm
    erases what there was to learn. The default, 1e-4, amplifies what is silent by 100 step_size at the most, and
    leaves alone what is well above 0.01; 1e-16 is for reproducing the published numbers.

    Args:
        step_size: s, above 0.
        beta: Decay of the average of squares, in [0, 1).
        delta: What is added to the average, at least 1e-18.
        delta_in_root: Whether delta stands inside the root; otherwise v_t = step_size a_t / (sqrt(m_t) + delta).
        learn: Whether step_size is learned, one number for all channels (``scalar``) or one for each (``unit``).
        channels: C, needed for ``unit``.

    Raises:
        ValueError: if a value lies outside its interval.
    """

    linear = False

    def __init__(
        self,
        step_size: float,
        beta: float,
        *,
        delta: float = 1e-4,
        delta_in_root: bool = True,
        learn: Learn = "none",
        channels: int = 1,
    ) -> None:
        super().__init__()
        number_in("(0, inf)", "step_size", step_size)
        self.step_size = Coefficient("step_size", step_size, learn=learn, channels=channels)
        self.beta = number_in("[0, 1)", "beta", beta)
        self.delta = number_in(DELTA, "delta", delta)
        self.delta_in_root = delta_in_root

    def initial_state(self, zeros_BC: Tensor) -> Tensor:
        return zeros_BC

    def step(self, a_BC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        m_BC = self.beta * state + (1 - self.beta) * a_BC**2
        return _in_units_of(self.step_size() * a_BC, m_BC, self.delta, self.delta_in_root), m_BC

    def forward(self, a_BTC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v_BTC, _, m_BC = adaptive(a_BTC, None, state, None, self.step_size(), self.beta, self.delta, self.delta_in_root)
        return v_BTC, m_BC

    def settled(self, a_C: Tensor) -> Tensor:
        return _in_units_of(self.step_size() * a_C, a_C**2, self.delta, self.delta_in_root)

    def growth(self) -> float:
        return 0.0

    def extra_repr(self) -> str:
        return f"beta={self.beta}, delta={self.delta}, delta_in_root={self.delta_in_root}"


class AdamState(NamedTuple):
    """p, the momentum, and m, the average of squares, each of shape (B, C)."""

    p: Tensor
    m: Tensor


class Adam(Drive):
    """p_t = momentum p_{t-1} + step_size a_t; m_t = beta m_{t-1} + (1-beta) a_t^2; v_t = p_t / sqrt(m_t + delta).

    When the input falls silent v_t goes on like (momentum / sqrt(beta))^k, so momentum above sqrt(beta) makes the
    drive grow, until m_t has fallen to delta. For delta at silent inputs see :class:`RMSProp`.

    Args:
        momentum: mu, in [0, 1); if learned, it starts and stays below sqrt(beta), where the drive is stable.
        step_size: s, above 0.
        beta: Decay of the average of squares, in [0, 1).
        delta: What is added to the average, at least 1e-18.
        delta_in_root: Whether delta stands inside the root; otherwise v_t = p_t / (sqrt(m_t) + delta).
        learn: Whether momentum and step_size are learned, one number for all channels (``scalar``) or one for each
            (``unit``).
        channels: C, needed for ``unit``.

    Raises:
        ValueError: if a value lies outside its interval.

    Warns:
        UserWarning: if momentum is above sqrt(beta), with both numbers.
    """

    linear = False

    def __init__(
        self,
        momentum: float,
        step_size: float,
        beta: float,
        *,
        delta: float = 1e-4,
        delta_in_root: bool = True,
        learn: Learn = "none",
        channels: int = 1,
    ) -> None:
        super().__init__()
        number_in("[0, 1)", "momentum", momentum)
        number_in("(0, inf)", "step_size", step_size)
        self.beta = number_in("[0, 1)", "beta", beta)
        self.delta = number_in(DELTA, "delta", delta)
        self.delta_in_root = delta_in_root
        self.momentum = Coefficient("momentum", momentum, high=sqrt(beta), learn=learn, channels=channels)
        self.step_size = Coefficient("step_size", step_size, learn=learn, channels=channels)
        if momentum > sqrt(beta):
            warnings.warn(
                f"momentum is {momentum}, above sqrt(beta) = sqrt({beta}) = {sqrt(beta):.4g}: when the input falls "
                f"silent the drive grows by {self.growth():.4g} in each step until delta = {delta} stops it",
                stacklevel=2,
            )

    def initial_state(self, zeros_BC: Tensor) -> AdamState:
        return AdamState(zeros_BC, zeros_BC.clone())

    def step(self, a_BC: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        p_BC = self.momentum() * state.p + self.step_size() * a_BC
        m_BC = self.beta * state.m + (1 - self.beta) * a_BC**2
        return _in_units_of(p_BC, m_BC, self.delta, self.delta_in_root), AdamState(p_BC, m_BC)

    def forward(self, a_BTC: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        v_BTC, p_BC, m_BC = adaptive(
            a_BTC,
            state.p,
            state.m,
            self.momentum.over_time(a_BTC),
            self.step_size(),
            self.beta,
            self.delta,
            self.delta_in_root,
        )
        assert p_BC is not None
        return v_BTC, AdamState(p_BC, m_BC)

    def settled(self, a_C: Tensor) -> Tensor:
        p_C = self.step_size() / (1 - self.momentum()) * a_C
        return _in_units_of(p_C, a_C**2, self.delta, self.delta_in_root)

    def growth(self) -> float:
        """Until m has fallen to delta; without momentum, at once."""
        momentum = largest(self.momentum())
        return momentum / sqrt(self.beta) if self.beta > 0 else inf if momentum > 0 else 0.0

    def extra_repr(self) -> str:
        return f"beta={self.beta}, delta={self.delta}, delta_in_root={self.delta_in_root}"


def _in_units_of(p: Tensor, m: Tensor, delta: float, delta_in_root: bool) -> Tensor:
    """p / sqrt(m + delta), or p / (sqrt(m) + delta)."""
    if delta_in_root:
        return p * torch.rsqrt(m + delta)
    silent = m == 0  # the root has no derivative there, and p / delta has the right one without it
    return p / (m.masked_fill(silent, 1.0).sqrt().masked_fill(silent, 0.0) + delta)
