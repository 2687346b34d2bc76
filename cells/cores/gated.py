"""Cores with a gate that keeps the state, and the chrono initialization of this gate.

Shapes: H hidden_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cells.cores.torch_core import TorchCore
from cells.validation import number_in


class GatedCore(TorchCore):
    """A core that keeps its state by a gate sig(b + ..): a unit remembers for about 1 + e^b steps.

    Args:
        max_timescale: T_max above 2, in steps. The chrono initialization (Tallec and Ollivier, "Can Recurrent Neural
            Networks Warp Time?", ICLR 2018) draws b = log U(1, T_max - 1), so that the times that units remember are
            spread evenly up to T_max; an input gate, if there is one, gets -b. None leaves the biases that ``init``
            gives.

    Attributes:
        keeps: Block of the gate that keeps the state.
        keeps_name: Name of this gate in reports.
        admits: Block of the input gate, if the core has one.
    """

    keeps: ClassVar[int]
    keeps_name: ClassVar[str] = "forget gate"
    admits: ClassVar[int | None] = None

    def __init__(self, input_size: int, hidden_size: int, *, max_timescale: float | None = None, **core: Any) -> None:
        self.max_timescale = None if max_timescale is None else number_in("(2, inf)", "max_timescale", max_timescale)
        super().__init__(input_size, hidden_size, **core)
        if max_timescale is not None and self.bias_hh is None:
            raise ValueError(f"max_timescale must be None without biases (bias is False), got {max_timescale}")

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.max_timescale is not None:
            b_H = torch.empty(self.hidden_size).uniform_(1, self.max_timescale - 1).log_()
            set_gate_bias(self, self.keeps, b_H)
            if self.admits is not None:
                set_gate_bias(self, self.admits, -b_H)

    def resting_forget_bias(self) -> Tensor | None:
        if self.bias_ih is None or self.bias_hh is None:
            return None
        with torch.no_grad():
            return (self.settled(self.bias_ih) + self.bias_hh).view(self.gates, -1)[self.keeps]

    def gain_notes(self) -> Sequence[str]:
        return [*note_of_gate(self.keeps_name, self.resting_forget_bias()), *super().gain_notes()]


def note_of_gate(name: str, b_H: Tensor | None) -> list[str]:
    """Return the sentence for :func:`cells.gain_report` about the gate that keeps the state, if it has a bias."""
    if b_H is None:
        return []
    return [
        f"The {name} rests on a bias of {b_H.mean():.3g} (from {b_H.min():.3g} to {b_H.max():.3g}), "
        f"where it is open by {torch.sigmoid(b_H).mean():.3g}."
    ]


@torch.no_grad()
def set_gate_bias(core: TorchCore, block: int, b_H: Tensor) -> None:
    """Set the bias of a gate to ``b_H``: all of it in b_hh, which no drive amplifies, and 0 in b_ih."""
    if core.bias_ih is not None and core.bias_hh is not None:
        gate = slice(block * core.hidden_size, (block + 1) * core.hidden_size)
        nn.init.zeros_(core.bias_ih[gate])
        core.bias_hh[gate] = b_H
