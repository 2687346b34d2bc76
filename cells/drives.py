"""Drives: what an optimiser does to the input of a recurrence before the recurrence sees it.

A drive turns a_t into v_t, each channel by itself, and never sees the hidden state. A linear drive commutes with the
input weight, v_t = W x~_t + b_ih s~_t with x~ the driven input and s~ the driven 1, so it runs on I + 1 channels
instead of on every gate, and any kernel for the plain recurrence can follow it.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from cells.scan import linear_scan
from cells.state import State
from cells.validation import number_in


class Drive(nn.Module, ABC):
    """v_t, state_t = step(a_t, state_{t-1}), elementwise, in float32 or float64 whatever autocast says.

    Attributes:
        linear: Whether v is linear in a, so that the drive may be applied to the input instead of to the gates.
    """

    linear: ClassVar[bool]

    @abstractmethod
    def initial_state(self, zeros_BC: Tensor) -> State:
        """The state before the first step; ``zeros_BC`` gives its shape, dtype and device."""

    @abstractmethod
    def step(self, a_BC: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: v_BC and the next state."""

    @abstractmethod
    def forward(self, a_BTC: Tensor, state: State) -> tuple[Tensor, State]:
        """A whole sequence: v_BTC and the last state."""


class Identity(Drive):
    """v_t = a_t."""

    linear = True

    def initial_state(self, zeros_BC: Tensor) -> State:
        return ()

    def step(self, a_BC: Tensor, state: State) -> tuple[Tensor, State]:
        return a_BC, state

    def forward(self, a_BTC: Tensor, state: State) -> tuple[Tensor, State]:
        return a_BTC, state


class Momentum(Drive):
    """v_t = momentum v_{t-1} + step_size a_t, heavy-ball momentum on the input.

    Its gain for a constant input is step_size / (1 - momentum).

    Args:
        momentum: mu, in [0, 1).
        step_size: s, above 0.

    Raises:
        ValueError: if a value lies outside its interval.
    """

    linear = True

    def __init__(self, momentum: float, step_size: float) -> None:
        super().__init__()
        self.momentum = number_in("[0, 1)", "momentum", momentum)
        self.step_size = number_in("(0, inf)", "step_size", step_size)

    def initial_state(self, zeros_BC: Tensor) -> Tensor:
        return zeros_BC

    def step(self, a_BC: Tensor, state: State) -> tuple[Tensor, Tensor]:
        v_BC = self.momentum * state + self.step_size * a_BC
        return v_BC, v_BC

    def forward(self, a_BTC: Tensor, state: State) -> tuple[Tensor, Tensor]:
        momentum = torch.as_tensor(self.momentum, dtype=a_BTC.dtype, device=a_BTC.device)
        v_BTC = linear_scan(momentum.view(1, 1, 1), self.step_size * a_BTC, state)
        return v_BTC, v_BTC[:, -1]

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, step_size={self.step_size}"
