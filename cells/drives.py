"""Drives: what an optimiser does to the input of a recurrence before the recurrence sees it.

A drive turns a_t into v_t, each channel by itself, and never sees the hidden state. A linear drive commutes with the
input weight, v_t = W x~_t + b_ih s~_t with x~ the driven input and s~ the driven 1, so it runs on I + 1 channels
instead of on every gate, and any kernel for the plain recurrence can follow it.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from math import inf, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cells.adaptive import adaptive
from cells.coefficients import Coefficient, Learn
from cells.scan import linear_scan
from cells.state import State
from cells.validation import number_in, positive_int

DELTA = "[1e-18, inf)"  # below it the powers of delta in the backward pass leave the range of float32


class Drive(nn.Module, ABC):
    """v_t, state_t = step(a_t, state_{t-1}), elementwise, in float32 or float64 whatever autocast says.

    Attributes:
        linear: Whether v is linear in a with the same coefficients in every channel, so that the drive may be applied
            to the input instead of to the gates.
    """

    linear: bool

    @abstractmethod
    def initial_state(self, zeros_BC: Tensor) -> State:
        """The state before the first step; ``zeros_BC`` gives its shape, dtype and device."""

    @abstractmethod
    def step(self, a_BC: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: v_BC and the next state."""

    @abstractmethod
    def forward(self, a_BTC: Tensor, state: State) -> tuple[Tensor, State]:
        """A whole sequence: v_BTC and the last state."""

    @abstractmethod
    def settled(self, a_C: Tensor) -> Tensor:
        """v_C after an input that was always ``a_C`` (the mean of a period, where there is one)."""

    @abstractmethod
    def growth(self) -> float:
        """The factor by which v changes in a step once the input is 0; above 1 the drive is unstable."""


class Identity(Drive):
    """v_t = a_t."""

    linear = True

    def initial_state(self, zeros_BC: Tensor) -> State:
        return ()

    def step(self, a_BC: Tensor, state: State) -> tuple[Tensor, State]:
        return a_BC, state

    def forward(self, a_BTC: Tensor, state: State) -> tuple[Tensor, State]:
        return a_BTC, state

    def settled(self, a_C: Tensor) -> Tensor:
        return a_C

    def growth(self) -> float:
        return 0.0


class Momentum(Drive):
    """v_t = momentum v_{t-1} + step_size a_t, heavy-ball momentum on the input.

    Its gain for a constant input is step_size / (1 - momentum).

    Args:
        momentum: mu, in [0, 1).
        step_size: s, above 0.
        learn: Whether both are learned, one number for all channels (``scalar``) or one for each (``unit``).
        channels: C, needed for ``unit``.

    Raises:
        ValueError: if a value lies outside its interval.
    """

    def __init__(self, momentum: float, step_size: float, *, learn: Learn = "none", channels: int = 1) -> None:
        super().__init__()
        self.linear = learn != "unit"
        number_in("[0, 1)", "momentum", momentum)
        number_in("(0, inf)", "step_size", step_size)
        self.momentum = Coefficient("momentum", momentum, high=1.0, learn=learn, channels=channels)
        self.step_size = Coefficient("step_size", step_size, learn=learn, channels=channels)

    def initial_state(self, zeros_BC: Tensor) -> Tensor:
        return zeros_BC

    def step(self, a_BC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v_BC = self.momentum() * state + self.step_size() * a_BC
        return v_BC, v_BC

    def forward(self, a_BTC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v_BTC = linear_scan(self.momentum.over_time(a_BTC), self.step_size() * a_BTC, state)
        return v_BTC, v_BTC[:, -1]

    def settled(self, a_C: Tensor) -> Tensor:
        v_C: Tensor = self.step_size() / (1 - self.momentum()) * a_C
        return v_C

    def growth(self) -> float:
        return _largest(self.momentum())


class RestartState(NamedTuple):
    """v of shape (B, C) and k, the count of the last step, of shape (B,); k is 0 before the first step."""

    v: Tensor
    k: Tensor


class ScheduledRestart(Drive):
    """v_t = (k-1)/(k+2) v_{t-1} + step_size a_t with k = 1, 2, .., restart_period, 1, 2, ..: Nesterov's schedule.

    Every row counts by itself, so that a row whose state is reset starts at k = 1.

    Args:
        step_size: s, above 0.
        restart_period: F, the number of steps after which k returns to 1 (and v is forgotten); at least 1.
        learn: Whether step_size is learned, one number for all channels (``scalar``) or one for each (``unit``).
        channels: C, needed for ``unit``.

    Raises:
        ValueError: if a value lies outside its interval.
    """

    def __init__(self, step_size: float, restart_period: int, *, learn: Learn = "none", channels: int = 1) -> None:
        super().__init__()
        self.linear = learn != "unit"
        number_in("(0, inf)", "step_size", step_size)
        self.step_size = Coefficient("step_size", step_size, learn=learn, channels=channels)
        self.restart_period = positive_int("restart_period", restart_period)

    def initial_state(self, zeros_BC: Tensor) -> RestartState:
        return RestartState(zeros_BC, zeros_BC.new_zeros(zeros_BC.shape[0], dtype=torch.int64))

    def step(self, a_BC: Tensor, state: RestartState) -> tuple[Tensor, RestartState]:
        k_B, c_B1 = restart_schedule(state.k[:, None], self.restart_period, a_BC)
        v_BC = c_B1 * state.v + self.step_size() * a_BC
        return v_BC, RestartState(v_BC, k_B[:, 0])

    def forward(self, a_BTC: Tensor, state: RestartState) -> tuple[Tensor, RestartState]:
        steps_T = torch.arange(a_BTC.shape[1], device=a_BTC.device)
        k_BT, c_BT = restart_schedule(state.k[:, None] + steps_T, self.restart_period, a_BTC)
        v_BTC = linear_scan(c_BT[:, :, None], self.step_size() * a_BTC, state.v)
        return v_BTC, RestartState(v_BTC[:, -1], k_BT[:, -1])

    def settled(self, a_C: Tensor) -> Tensor:
        a_1TC = a_C.expand(1, self.restart_period, -1)
        v_1TC, _ = self.forward(a_1TC, self.initial_state(torch.zeros_like(a_1TC[:, 0])))
        return v_1TC[0].mean(0)

    def growth(self) -> float:
        return (self.restart_period - 1) / (self.restart_period + 2)

    def extra_repr(self) -> str:
        return f"restart_period={self.restart_period}"


def restart_schedule(steps: Tensor, restart_period: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The count k after ``steps`` steps, and its coefficient (k-1)/(k+2) in the dtype of ``like``."""
    k = steps % restart_period + 1
    k_real = k.to(like.dtype)
    return k, (k_real - 1) / (k_real + 2)


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
        momentum = _largest(self.momentum())
        return momentum / sqrt(self.beta) if self.beta > 0 else inf if momentum > 0 else 0.0

    def extra_repr(self) -> str:
        return f"beta={self.beta}, delta={self.delta}, delta_in_root={self.delta_in_root}"


def _in_units_of(p: Tensor, m: Tensor, delta: float, delta_in_root: bool) -> Tensor:
    """p / sqrt(m + delta), or p / (sqrt(m) + delta)."""
    if delta_in_root:
        return p * torch.rsqrt(m + delta)
    silent = m == 0  # the root has no derivative there, and p / delta has the right one without it
    return p / (m.masked_fill(silent, 1.0).sqrt().masked_fill(silent, 0.0) + delta)


def _largest(number: float | Tensor) -> float:
    return number.max().item() if isinstance(number, Tensor) else number
