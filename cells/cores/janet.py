"""JANET, an LSTM with only a forget gate, with every drive.

Shapes: B batch, H hidden_size, G = 2 x H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cells.cores.gated import GatedCore
from cells.cores.tanh import RNNState
from cells.driven import AdamDriven, IdentityDriven, MomentumDriven, RMSPropDriven
from cells.validation import number_in


class JANETCore(GatedCore):
    """f, g = v_t + u_t; h_t = sig(f) h_{t-1} + (1 - sig(f - lag)) tanh(g).

    With ``max_timescale`` the forget bias is drawn from log U(1, T_max - 1), and the other biases are those of
    ``init``. The public code draws log U(1, T_max), and its other biases are 0.

    Source: van der Westhuizen and Lasenby, "The unreasonable effectiveness of the forget gate", 2018, who use the
    chrono initialization.

    Args:
        lag: Difference between the pre-activations of the forget gate and of the input gate: 1 as published (there
            called beta); 0 ties the two gates.
    """

    gates = 2
    gate_names = ("f", "g")
    keeps = 0

    def __init__(self, input_size: int, hidden_size: int, *, lag: float = 1.0, **core: Any) -> None:
        self.lag = number_in("[0, inf)", "lag", lag)
        super().__init__(input_size, hidden_size, **core)

    def initial_core_state(self, zeros_BH: Tensor) -> RNNState:
        return RNNState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        f, g = (v_BG + u_BG).chunk(2, -1)
        h_BH = torch.sigmoid(f) * state.h + (1 - torch.sigmoid(f - self.lag)) * torch.tanh(g)
        return h_BH, RNNState(h_BH)

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        f, _ = (v_BG + u_BG).chunk(2, -1)
        return {"f": torch.sigmoid(f), "new": 1 - torch.sigmoid(f - self.lag)}


class JANET(IdentityDriven, JANETCore):
    """h_t = sig(f) h_{t-1} + (1 - sig(f - lag)) tanh(g); f, g = W x_t + b_ih + U h_{t-1} + b_hh.

    Source: van der Westhuizen and Lasenby, "The unreasonable effectiveness of the forget gate", 2018.
    """


class MomentumJANET(MomentumDriven, JANETCore):
    """JANET with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t.

    The momentum of Nguyen et al. (NeurIPS 2020) on the core of van der Westhuizen and Lasenby (2018).
    """


class RMSPropJANET(RMSPropDriven, JANETCore):
    """JANET with v_t in place of a_t = W x_t + b_ih: v_t = s a_t / sqrt(m_t + delta).

    m_t = beta m_{t-1} + (1-beta) a_t^2.

    The RMSProp of Nguyen et al. (NeurIPS 2020) on the core of van der Westhuizen and Lasenby (2018).
    """


class AdamJANET(AdamDriven, JANETCore):
    """JANET with v_t = p_t / sqrt(m_t + delta), p_t = mu p_{t-1} + s a_t, m_t = beta m_{t-1} + (1-beta) a_t^2.

    The Adam of Nguyen et al. (NeurIPS 2020) on the core of van der Westhuizen and Lasenby (2018).
    """
