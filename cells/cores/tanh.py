"""tanh recurrent networks (Elman networks) with every drive.

Shapes: B batch, H hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from cells.cores.torch_core import TorchCore
from cells.driven import AdamDriven, IdentityDriven, MomentumDriven, RMSPropDriven, SRDriven
from cells.introspection import TanhNetwork


class RNNState(NamedTuple):
    """h of shape (B, H)."""

    h: Tensor


class RNNCore(TorchCore):
    """h_t = tanh(v_t + u_t) (Elman 1990)."""

    gates = 1
    gate_names = ("U",)
    kernel: ClassVar[Callable[..., Any] | None] = staticmethod(torch.rnn_tanh)

    def initial_core_state(self, zeros_BH: Tensor) -> RNNState:
        return RNNState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        h_BH = torch.tanh(v_BG + u_BG)
        return h_BH, RNNState(h_BH)

    def tanh_network(self) -> TanhNetwork | None:
        return TanhNetwork(self.weight_hh.detach(), momentum=None)


class RNN(IdentityDriven, RNNCore):
    """h_t = tanh(a_t + U h_{t-1} + b_hh), a_t = W x_t + b_ih."""


class MomentumRNN(MomentumDriven, RNNCore):
    """h_t = tanh(v_t + U h_{t-1} + b_hh), v_t = mu v_{t-1} + s (W x_t + b_ih).

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class SRRNN(SRDriven, RNNCore):
    """h_t = tanh(v_t + U h_{t-1} + b_hh), v_t = (k-1)/(k+2) v_{t-1} + s (W x_t + b_ih), k = 1, .., F, 1, ...

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class RMSPropRNN(RMSPropDriven, RNNCore):
    """h_t = tanh(v_t + U h_{t-1} + b_hh), v_t = s a_t / sqrt(m_t + delta), m_t = beta m_{t-1} + (1-beta) a_t^2.

    a_t = W x_t + b_ih.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class AdamRNN(AdamDriven, RNNCore):
    """h_t = tanh(v_t + U h_{t-1} + b_hh), v_t = p_t / sqrt(m_t + delta), p_t = mu p_{t-1} + s (W x_t + b_ih).

    m_t = beta m_{t-1} + (1-beta) a_t^2, a_t = W x_t + b_ih.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """
