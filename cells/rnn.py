"""tanh recurrent networks over every drive.

Shapes: B batch, H hidden_size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cells.driven import DrivenCell, IdentityDriven, MomentumDriven


class RNNState(NamedTuple):
    """h of shape (B, H)."""

    h: Tensor


class RNNCore(DrivenCell):
    """h_t = tanh(v_t + U h_{t-1} + b_hh) (Elman 1990)."""

    gates = 1
    kernel = staticmethod(torch.rnn_tanh)

    def initial_core_state(self, zeros_BH: Tensor) -> RNNState:
        return RNNState(zeros_BH)

    def core_step(self, v_BG: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        h_BH = torch.tanh(v_BG + F.linear(state.h, self.weight_hh, self.bias_hh))
        return h_BH, RNNState(h_BH)


class RNN(IdentityDriven, RNNCore):
    """h_t = tanh(a_t + U h_{t-1} + b_hh), a_t = W x_t + b_ih."""


class MomentumRNN(MomentumDriven, RNNCore):
    """h_t = tanh(v_t + U h_{t-1} + b_hh), v_t = mu v_{t-1} + s (W x_t + b_ih).

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """
