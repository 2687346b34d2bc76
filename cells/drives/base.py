"""The contract of a drive, and the identity.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from cells.state import State

SETTLING, MEASURED = 1000, 1000  # steps that Drive.settled discards at most, and steps that it averages
CHUNK, SETTLED = 50, 1e-6  # v has settled if it changes by less than this part of itself during so many steps


class Drive(nn.Module, ABC):
    """v_t, state_t = step(a_t, state_{t-1}), elementwise in the channels.

    A new drive implements :meth:`step` and :meth:`initial_state`. The other methods have defaults; an override is
    faster or exact. Cells call a drive outside of autocast, in float32 or float64.

    The constructor arguments of a drive are those of its mixin (:mod:`cells.driven`), which documents them and gives
    them their defaults.

    Attributes:
        commutes_with_weights: Whether W drive(x) + b drive(1) equals drive(W x + b). The drive then runs on the input
            and the constant 1, I + 1 channels, instead of on the gates, and any kernel for the plain recurrence can
            follow it. This holds if v is linear in a with the same coefficients in every channel.
    """

    commutes_with_weights: bool = False

    @abstractmethod
    def initial_state(self, zeros_BC: Tensor) -> State:
        """Return the state before the first step; ``zeros_BC`` gives its shape, dtype and device."""

    @abstractmethod
    def step(self, a_BC: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute one step: v_BC and the next state."""

    def forward(self, a_BTC: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute a whole sequence: v_BTC and the last state."""
        outputs = []
        for a_BC in a_BTC.unbind(1):
            v_BC, state = self.step(a_BC, state)
            outputs.append(v_BC)
        return torch.stack(outputs, 1), state

    def settled(self, a_C: Tensor) -> Tensor:
        """Return the value of v_C that the constant input ``a_C`` leads to, or its mean if v does not settle.

        The default runs the drive until v is constant, and not 0, over :data:`CHUNK` steps: at 0 its derivative may
        still change. If this does not happen within :data:`SETTLING` steps, v is averaged over the next
        :data:`MEASURED`.
        """
        state = self.initial_state(torch.zeros_like(a_C).unsqueeze(0))
        for _ in range(SETTLING // CHUNK):
            v_1TC, state = self.forward(a_C.expand(1, CHUNK, -1), state)
            change_C = v_1TC[0].amax(0) - v_1TC[0].amin(0)
            if bool((change_C < SETTLED * v_1TC[0].abs().amax(0)).all()):
                return v_1TC[0, -1]
        v_1TC, _ = self.forward(a_C.expand(1, MEASURED, -1), state)
        return v_1TC[0].mean(0)

    def growth(self) -> float | None:
        """Return the factor by which v changes in a step of zero input; above 1 the drive is unstable.

        None, the default, says that it is not known.
        """
        return None

    def fixed_momentum(self) -> float | None:
        """Return mu if v_t = mu v_{t-1} + s a_t with one mu for all channels and steps, else None."""
        return None

    def gain_note(self) -> str | None:
        """Return a sentence on the drive for :func:`cells.gain_report`, such as the control to compare with."""
        return None


class Identity(Drive):
    """v_t = a_t."""

    commutes_with_weights = True

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
