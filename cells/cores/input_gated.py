"""Cores whose gates see the input alone, so that the state is linear in the state before.

Shapes: B batch, T time, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cells.cores.base import Core
from cells.cores.gated import note_of_gate
from cells.engines.precision import full_precision, no_autocast
from cells.engines.scan import linear_scan
from cells.introspection import Flops


class InputGatedState(NamedTuple):
    """h of shape (B, H)."""

    h: Tensor


class InputGatedCore(Core):
    """h_t = keep(v_t) h_{t-1} + new(v_t), elementwise; there is no U.

    A new core implements :meth:`coefficients`. The engine ``scan`` computes all steps at once from it. W and b_ih are
    initialized uniformly in +-1/sqrt(I), as in torch.nn.Linear.

    Args:
        bias: Whether the core has the bias b_ih. There is no b_hh.

    Attributes:
        keeps_name: Name of the gate that keeps the state in reports.
    """

    keeps_name = "forget gate"
    scannable = True

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True, **core: Any) -> None:
        super().__init__(input_size, hidden_size, **core)
        self.bias_ih = nn.Parameter(torch.empty(len(self.weight_ih))) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial parameters."""
        bound = self.input_size**-0.5
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    @abstractmethod
    def coefficients(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return keep and new of shape (.., H) from the gates v of shape (.., G), in a step or in a sequence."""

    def recurrent_weight(self) -> Tensor:
        """Return a weight without rows, because no gate reads h."""
        return self.weight_ih.new_empty(0, self.hidden_size)

    def recurrent_product(self, weight_GH: Tensor, state: InputGatedState) -> Tensor:
        return state.h.new_empty(len(state.h), 0)

    def recurrent_blocks(self) -> dict[str, Tensor]:
        return {}

    def initial_core_state(self, zeros_BH: Tensor) -> InputGatedState:
        return InputGatedState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: InputGatedState) -> tuple[Tensor, InputGatedState]:
        keep_BH, new_BH = self.coefficients(v_BG)
        h_BH = keep_BH * state.h + new_BH
        return h_BH, InputGatedState(h_BH)

    def core_scan(self, v_BTG: Tensor, state: InputGatedState) -> tuple[Tensor, InputGatedState]:
        with no_autocast(v_BTG):
            keep_BTH, new_BTH = self.coefficients(full_precision(v_BTG))
            h_BTH = linear_scan(keep_BTH, new_BTH, full_precision(state.h)).to(self.weight_ih.dtype)
        return h_BTH, InputGatedState(h_BTH[:, -1])

    def product_flops(self, T: int, batch: int, D: int, *, input_grad: bool) -> Flops:
        forward = 2 * batch * T * D * len(self.weight_ih)
        return Flops(forward, 2 * forward if input_grad else forward)

    def resting_forget_bias(self) -> Tensor | None:
        """Return the logit of what the core keeps of its state when the input is 0, the bias that acts on its gate."""
        if self.bias_ih is None:
            return None
        with torch.no_grad():
            keep_H, _ = self.coefficients(self.settled(self.bias_ih))
            return torch.logit(keep_H)

    def gain_notes(self) -> Sequence[str]:
        return [*note_of_gate(self.keeps_name, self.resting_forget_bias()), *super().gain_notes()]
