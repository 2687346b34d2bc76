"""The base of cores with modReLU and a recurrent weight that keeps the norm of h: orthogonal or unitary.

Shapes: B batch, H hidden_size (one gate block: G = H).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cells.cores.base import Core
from cells.cores.tanh import RNNState
from cells.engines.precision import no_autocast


def modrelu(z_BH: Tensor, bias_H: Tensor) -> Tensor:
    """Return sign(z) relu(|z| + b). It is discontinuous at z = 0 if b > 0 (Arjovsky, Shah and Bengio 2016)."""
    return z_BH.sign() * torch.relu(z_BH.abs() + bias_H)


class ModReLUCore(Core):
    """h_t = modReLU(v_t + U h_{t-1}); the bias of modReLU is the only bias.

    Parameters: ``weight_ih`` W of shape (H, I), Kaiming normal; ``modrelu_bias``, one for each unit, uniform in +-0.01;
    and those from which a subclass computes U, in full precision.
    """

    gates = 1
    gate_names = ("U",)
    bounded = False

    def __init__(self, input_size: int, hidden_size: int, **core: Any) -> None:
        super().__init__(input_size, hidden_size, **core)
        self.modrelu_bias = nn.Parameter(torch.empty(self.units))

    @property
    def units(self) -> int:
        """Number of units that have a bias."""
        return self.hidden_size

    def reset_parameters(self) -> None:
        """Draw new initial parameters."""
        nn.init.kaiming_normal_(self.weight_ih, nonlinearity="relu")
        nn.init.uniform_(self.modrelu_bias, -0.01, 0.01)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # always in full precision: near the discontinuity of modReLU rounding would change gradients by any amount
        with no_autocast(x):
            return super().linear(x.to(weight.dtype), weight, bias)

    def product_dtype(self) -> torch.dtype:
        return self.weight_ih.dtype

    def initial_core_state(self, zeros_BH: Tensor) -> RNNState:
        return RNNState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        h_BH = modrelu(v_BG + u_BG, self.modrelu_bias)
        return h_BH, RNNState(h_BH)
