"""Cores with modReLU and one recurrent weight, which keeps the length of h: orthogonal, or unitary.

Shapes: B batch, H hidden_size (one gate block: G = H).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cells.cores.tanh import RNNState
from cells.driven import DrivenCell
from cells.drives import Drive
from cells.engines.bptt import ModReLURecurrence, Recurrence
from cells.engines.precision import no_autocast


def modrelu(z_BH: Tensor, bias_H: Tensor) -> Tensor:
    """sign(z) relu(|z| + b). It jumps at z = 0 where b is positive (Arjovsky, Shah and Bengio 2016)."""
    return z_BH.sign() * torch.relu(z_BH.abs() + bias_H)


class ModReLUCore(DrivenCell):
    """h_t = modReLU(v_t + U h_{t-1}); no biases but the modReLU's.

    Parameters: ``weight_ih`` W of shape (H, I), Kaiming normal; ``modrelu_bias``, one for each unit, uniform in +-0.01;
    and those that a subclass makes U of, computed in full precision.
    """

    gates = 1
    gate_names = ("U",)
    recurrence: ClassVar[type[Recurrence] | None] = ModReLURecurrence

    @abstractmethod
    def __init__(self, input_size: int, hidden_size: int, *, drive: Drive, **driven: Any) -> None:
        super().__init__(input_size, hidden_size, drive=drive, **driven)
        self.modrelu_bias = nn.Parameter(torch.empty(self.units))

    @property
    def units(self) -> int:
        """Number of units that have a bias."""
        return self.hidden_size

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        nn.init.kaiming_normal_(self.weight_ih, nonlinearity="relu")
        nn.init.uniform_(self.modrelu_bias, -0.01, 0.01)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """In full precision always: rounding near the jump of modReLU at 0 becomes errors in gradients of any size."""
        with no_autocast(x):
            return super().linear(x.to(weight.dtype), weight, bias)

    def product_dtype(self) -> torch.dtype:
        return self.weight_ih.dtype

    def own_parameters(self) -> tuple[Tensor, ...]:
        return (self.modrelu_bias,)

    def initial_core_state(self, zeros_BH: Tensor) -> RNNState:
        return RNNState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        h_BH = modrelu(v_BG + u_BG, self.modrelu_bias)
        return h_BH, RNNState(h_BH)
