"""Nesterov momentum with scheduled restart on the input.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cells.drives.base import Drive
from cells.drives.coefficients import Coefficient, Learn
from cells.engines.scan import linear_scan
from cells.validation import number_in, positive_int


class RestartState(NamedTuple):
    """v of shape (B, C), and k, the count of the last step, of shape (B,); k is 0 before the first step."""

    v: Tensor
    k: Tensor


class ScheduledRestart(Drive):
    """v_t = (k-1)/(k+2) v_{t-1} + step_size a_t with k = 1, 2, .., restart_period, 1, 2, ..: Nesterov's schedule.

    Each row has its own count, so that a row whose state is reset starts at k = 1.
    :class:`cells.driven.SRDriven` documents the arguments; ``channels`` is C, for ``learn`` ``unit``.
    """

    def __init__(self, step_size: float, restart_period: int, *, learn: Learn = "none", channels: int = 1) -> None:
        super().__init__()
        self.commutes_with_weights = learn != "unit"
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
        # In every period v_k = s a (k + 3) / 4. This is its mean over k = 1, .., F.
        v_C: Tensor = self.step_size() * (self.restart_period + 7) / 8 * a_C
        return v_C

    def growth(self) -> float:
        return (self.restart_period - 1) / (self.restart_period + 2)

    def extra_repr(self) -> str:
        return f"restart_period={self.restart_period}"


def restart_schedule(steps: Tensor, restart_period: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the count k after ``steps`` steps, and its coefficient (k-1)/(k+2) in the dtype of ``like``."""
    k = steps % restart_period + 1
    k_real = k.to(like.dtype)
    return k, (k_real - 1) / (k_real + 2)
