"""Heavy-ball momentum on the input.

Shapes: B batch, T time, C channels.
"""

from __future__ import annotations

from torch import Tensor

from cells.drives.base import Drive
from cells.drives.coefficients import Coefficient, Learn, largest
from cells.engines.scan import linear_scan
from cells.validation import number_in


class Momentum(Drive):
    """v_t = momentum v_{t-1} + step_size a_t.

    The gain for a constant input is step_size / (1 - momentum). :class:`cells.driven.MomentumDriven` documents the
    arguments; ``channels`` is C, for ``learn`` ``unit``.
    """

    def __init__(self, momentum: float, step_size: float, *, learn: Learn = "none", channels: int = 1) -> None:
        super().__init__()
        self.commutes_with_weights = learn != "unit"
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
        return largest(self.momentum())

    def fixed_momentum(self) -> float | None:
        momentum = self.momentum()
        return float(momentum) if not isinstance(momentum, Tensor) or momentum.numel() == 1 else None

    def gain_note(self) -> str | None:
        return "Control to compare with: the same step_size with momentum 0." if self.growth() > 0 else None
