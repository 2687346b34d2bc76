"""Cores whose gates decide how long they remember, and the chrono initialisation of these gates.

Shapes: H hidden_size.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cells.driven import TorchCore
from cells.drives import Drive
from cells.validation import number_in


class GatedCore(TorchCore):
    """A core that keeps its state by a gate sig(b + ..), so that a unit remembers for some 1 + e^b steps.

    Args:
        max_timescale: T_max above 2, in steps: the chrono initialisation draws b = log U(1, T_max - 1), with which the
            units remember for times spread evenly up to T_max; the gate that lets the new in, where there is one, gets
            -b (Tallec and Ollivier, "Can Recurrent Neural Networks Warp Time?", ICLR 2018). None keeps what ``init``
            gives.

    Attributes:
        keeps: Block of the gate that keeps the state.
        admits: Block of the gate that lets the new in, if that is a gate of its own.
    """

    keeps: ClassVar[int]
    admits: ClassVar[int | None] = None

    @abstractmethod
    def __init__(
        self, input_size: int, hidden_size: int, *, drive: Drive, max_timescale: float | None = None, **driven: Any
    ) -> None:
        self.max_timescale = None if max_timescale is None else number_in("(2, inf)", "max_timescale", max_timescale)
        super().__init__(input_size, hidden_size, drive=drive, **driven)
        if max_timescale is not None and self.bias_hh is None:
            raise ValueError(f"max_timescale is {max_timescale}, but bias is False: None is expected")

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.max_timescale is not None:
            b_H = torch.empty(self.hidden_size).uniform_(1, self.max_timescale - 1).log_()
            rest_on(self, self.keeps, b_H)
            if self.admits is not None:
                rest_on(self, self.admits, -b_H)


@torch.no_grad()
def rest_on(core: TorchCore, block: int, b_H: Tensor) -> None:
    """Make ``b_H`` the bias of a gate: all of it in b_hh, where no drive amplifies it, and 0 in b_ih."""
    if core.bias_ih is not None and core.bias_hh is not None:
        gate = slice(block * core.hidden_size, (block + 1) * core.hidden_size)
        nn.init.zeros_(core.bias_ih[gate])
        core.bias_hh[gate] = b_H
