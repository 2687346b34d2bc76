"""Drives that divide by the root mean square of their recent inputs: RMSProp and Adam.

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
from cells.engines.scan import linear_scan
from cells.validation import number_in

DELTA = "[1e-18, inf)"  # smaller: the powers of delta in the backward pass overflow in float32


class RMSProp(Drive):
    """m_t = beta m_{t-1} + (1-beta) a_t^2; v_t = step_size a_t / sqrt(m_t + delta).

    v_t is a_t divided by its recent root mean square. At a silent input (a near 0) the derivative of v is
    step_size / sqrt(delta), which can prevent learning: an image that starts with black pixels gives a_t = b_ih there,
    and with delta = 1e-16 the gradient of the bias is 1e6 to 1e7 times that of the weights. Clipping by the norm then
    erases the gradient of the weights. The default delta, 1e-4, limits this gain to 100 step_size, and hardly changes
    inputs well above 0.01. Use 1e-16 only to reproduce the published numbers.

    :class:`cells.driven.RMSPropDriven` documents the arguments; ``channels`` is C, for ``learn`` ``unit``.
    """

    def __init__(
        self,
        step_size: float,
        beta: float,
        *,
        delta: float,
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
        return _divided(self.step_size() * a_BC, m_BC, self.delta, self.delta_in_root), m_BC

    def forward(self, a_BTC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        m_BTC = _average(a_BTC, state, self.beta)
        return _divided(self.step_size() * a_BTC, m_BTC, self.delta, self.delta_in_root), m_BTC[:, -1].clone()

    def settled(self, a_C: Tensor) -> Tensor:
        return _divided(self.step_size() * a_C, a_C**2, self.delta, self.delta_in_root)

    def growth(self) -> float:
        return 0.0

    def extra_repr(self) -> str:
        return f"beta={self.beta}, delta={self.delta}, delta_in_root={self.delta_in_root}"


class AdamState(NamedTuple):
    """p, the momentum, and m, the moving average of squares, each of shape (B, C)."""

    p: Tensor
    m: Tensor


class Adam(Drive):
    """p_t = momentum p_{t-1} + step_size a_t; m_t = beta m_{t-1} + (1-beta) a_t^2; v_t = p_t / sqrt(m_t + delta).

    After the input falls to 0, v_t changes like (momentum / sqrt(beta))^k. With momentum above sqrt(beta) the drive
    therefore grows until m_t has fallen to delta. See :class:`RMSProp` for the effect of delta at silent inputs.

    :class:`cells.driven.AdamDriven` documents the arguments; ``channels`` is C, for ``learn`` ``unit``.

    Warns:
        UserWarning: if momentum is above sqrt(beta), with both numbers.
    """

    def __init__(
        self,
        momentum: float,
        step_size: float,
        beta: float,
        *,
        delta: float,
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
                f"momentum should be at most sqrt(beta) = sqrt({beta}) = {sqrt(beta):.4g}, got {momentum}. After the "
                f"input falls to 0 the drive grows by a factor of {self.growth():.4g} per step, until delta = {delta} "
                "limits it",
                stacklevel=2,
            )

    def initial_state(self, zeros_BC: Tensor) -> AdamState:
        return AdamState(zeros_BC, zeros_BC.clone())

    def step(self, a_BC: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        p_BC = self.momentum() * state.p + self.step_size() * a_BC
        m_BC = self.beta * state.m + (1 - self.beta) * a_BC**2
        return _divided(p_BC, m_BC, self.delta, self.delta_in_root), AdamState(p_BC, m_BC)

    def forward(self, a_BTC: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        p_BTC = linear_scan(self.momentum.over_time(a_BTC), self.step_size() * a_BTC, state.p)
        m_BTC = _average(a_BTC, state.m, self.beta)
        last = AdamState(p_BTC[:, -1].clone(), m_BTC[:, -1].clone())
        return _divided(p_BTC, m_BTC, self.delta, self.delta_in_root), last

    def settled(self, a_C: Tensor) -> Tensor:
        p_C = self.step_size() / (1 - self.momentum()) * a_C
        return _divided(p_C, a_C**2, self.delta, self.delta_in_root)

    def growth(self) -> float:
        # holds until m has fallen to delta; without momentum v is 0 at once
        momentum = largest(self.momentum())
        return momentum / sqrt(self.beta) if self.beta > 0 else inf if momentum > 0 else 0.0

    def gain_note(self) -> str | None:
        return "The drive is unstable because momentum is above sqrt(beta)." if self.growth() > 1 else None

    def extra_repr(self) -> str:
        return f"beta={self.beta}, delta={self.delta}, delta_in_root={self.delta_in_root}"


def _average(a_BTC: Tensor, m_BC: Tensor, beta: float) -> Tensor:
    """Return all m_t = beta m_{t-1} + (1-beta) a_t^2."""
    return linear_scan(a_BTC.new_full((1, 1, 1), beta), (1 - beta) * a_BTC**2, m_BC)


def _divided(p: Tensor, m: Tensor, delta: float, delta_in_root: bool) -> Tensor:
    """Return p / sqrt(m + delta), or p / (sqrt(m) + delta)."""
    if delta_in_root:
        return p * torch.rsqrt(m + delta)
    silent = m == 0  # sqrt has no derivative at 0; p / delta has the right one without it
    return p / (m.masked_fill(silent, 1.0).sqrt().masked_fill(silent, 0.0) + delta)
