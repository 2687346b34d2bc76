"""Questions that the analysis asks a cell, with defaults that mean "unknown".

Shapes: B batch, I input_size, H hidden_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from cells.state import State


class Flops(NamedTuple):
    """Floating-point operations of a forward and of a backward pass."""

    forward: int
    backward: int


class InputGain(NamedTuple):
    """Gains of a drive for a constant input a = W x + b_ih, each the mean over the channels.

    Attributes:
        constant: Value that a constant input of 1 is driven to: step_size / (1 - momentum) for momentum.
        silent: Gain for a constant input near 0. It equals ``constant`` if the drive is linear in its input.
    """

    constant: float
    silent: float


class TanhNetwork(NamedTuple):
    """A cell of the form h_t = tanh(v_t + U h_{t-1} + b), where v does not depend on h.

    Attributes:
        weight: U, of shape (H, H).
        momentum: mu if v_t = mu v_{t-1} + s a_t with one fixed mu, else None.
    """

    weight: Tensor
    momentum: float | None


class Introspection:
    """Questions that ``cells.analysis`` asks a cell.

    A cell overrides the methods to which it knows the answer. :class:`cells.cores.base.Core` answers most of them for
    every core, :class:`cells.driven.DrivenCell` for every drive.
    """

    def flops(self, T: int, batch: int, *, input_grad: bool) -> Flops | None:
        """Return the operations of the matrix products over T steps; None lets torch count them in the step loop."""
        return None

    def gate_openings(self, x_BI: Tensor, state: State) -> dict[str, Tensor]:
        """Return how far each gate opens in a step from ``state``, in [0, 1] of shape (B, H), by the gate's name."""
        return {}

    def recurrent_blocks(self) -> dict[str, Tensor]:
        """Return the (H, H) blocks of the recurrent weight by name."""
        return {}

    def input_gain(self) -> InputGain | None:
        """Return the gain of the cell for a constant input; None if it is not defined for this cell."""
        return None

    def drive_growth(self) -> float | None:
        """Return the factor by which the drive changes in a step of zero input; None if the cell has no drive."""
        return None

    def resting_forget_bias(self) -> Tensor | None:
        """Return the bias, of shape (H,), that acts on the gate that keeps the state; None if there is no such gate."""
        return None

    def gain_notes(self) -> Sequence[str]:
        """Return sentences for :func:`cells.gain_report`: stability, the forget gate, the control to compare with."""
        return ()

    def tanh_network(self) -> TanhNetwork | None:
        """Return the cell as a tanh network, for the formulas of :mod:`cells.analysis.jacobians`; None if it is not."""
        return None
