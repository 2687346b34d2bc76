"""The contract of a drive, and the drive that does nothing.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from cells.state import State


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
