"""LSTM and GRU with uniform gate initialization and refine gates (UR), with every drive.

Shapes: B batch, H hidden_size, G = 4 x H.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cells.cores.gated import set_gate_bias
from cells.cores.gru import GRUState
from cells.cores.lstm import LSTMState
from cells.cores.torch_core import TorchCore
from cells.driven import AdamDriven, IdentityDriven, MomentumDriven, RMSPropDriven


class URCore(TorchCore):
    """A core whose forget gate f is refined by a second gate r: g = 2 r f + (1 - 2 r) f^2, from f^2 to 1 - (1 - f)^2.

    Uniform gate initialization: b_f = -log(1/u - 1), u ~ U(1/H, 1 - 1/H), so that f is initially uniform over the
    units, and b_r = -b_f. Training changes the two biases independently. The first two gate blocks are f and r.

    Source: Gu, Gulcehre, Paine, Hoffman and Pascanu, "Improving the Gating Mechanism of Recurrent Neural Networks",
    ICML 2020.
    """

    gates = 4

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias_hh is None:
            raise ValueError(f"bias must be True for {type(self).__name__}, whose initialization sets it, got False")
        lowest = min(1 / self.hidden_size, 0.5)
        b_H = torch.empty(self.hidden_size).uniform_(lowest, 1 - lowest).logit_()
        set_gate_bias(self, 0, b_H)
        set_gate_bias(self, 1, -b_H)

    @staticmethod
    def refined(f: Tensor, r: Tensor) -> Tensor:
        """Return g from the pre-activations of the two gates."""
        f, r = torch.sigmoid(f), torch.sigmoid(r)
        return 2 * r * f + (1 - 2 * r) * f * f


class URLSTMCore(URCore):
    """f, r, p, o = v_t + u_t; c_t = g c_{t-1} + (1 - g) tanh(p); h_t = sig(o) tanh(c_t); g = refined(f, r)."""

    def initial_core_state(self, zeros_BH: Tensor) -> LSTMState:
        return LSTMState(zeros_BH, zeros_BH.clone())

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        f, r, p, o = (v_BG + u_BG).chunk(4, -1)
        g_BH = self.refined(f, r)
        c_BH = g_BH * state.c + (1 - g_BH) * torch.tanh(p)
        h_BH = torch.sigmoid(o) * torch.tanh(c_BH)
        return h_BH, LSTMState(h_BH, c_BH)


class URGRUCore(URCore):
    """h_t = g h_{t-1} + (1 - g) tanh(v_n + sig(v_s + u_s) u_n); g = refined(v_f + u_f, v_r + u_r).

    Blocks f, r, s, n; the reset gate s acts on U h + b_hh, as in torch.nn.GRU.
    """

    def initial_core_state(self, zeros_BH: Tensor) -> GRUState:
        return GRUState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: GRUState) -> tuple[Tensor, GRUState]:
        v_f, v_r, v_s, v_n = v_BG.chunk(4, -1)
        u_f, u_r, u_s, u_n = u_BG.chunk(4, -1)
        g_BH = self.refined(v_f + u_f, v_r + u_r)
        n_BH = torch.tanh(v_n + torch.sigmoid(v_s + u_s) * u_n)
        h_BH = n_BH + g_BH * (state.h - n_BH)
        return h_BH, GRUState(h_BH)


class URLSTM(IdentityDriven, URLSTMCore):
    """c_t = g c_{t-1} + (1-g) tanh(p), h_t = sig(o) tanh(c_t); g = 2 r f + (1-2r) f^2; f, r, p, o = W x + b + U h + b'.

    In g, f and r are the values of the gates after the sigmoid.

    Source: Gu, Gulcehre, Paine, Hoffman and Pascanu, "Improving the Gating Mechanism of Recurrent Neural Networks",
    ICML 2020.
    """


class MomentumURLSTM(MomentumDriven, URLSTMCore):
    """URLSTM with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t.

    The momentum of Nguyen et al. (NeurIPS 2020) on the core of Gu et al. (ICML 2020).
    """


class RMSPropURLSTM(RMSPropDriven, URLSTMCore):
    """URLSTM with v_t in place of a_t = W x_t + b_ih: v_t = s a_t / sqrt(m_t + delta).

    m_t = beta m_{t-1} + (1-beta) a_t^2.

    The RMSProp of Nguyen et al. (NeurIPS 2020) on the core of Gu et al. (ICML 2020).
    """


class AdamURLSTM(AdamDriven, URLSTMCore):
    """URLSTM with v_t = p_t / sqrt(m_t + delta), p_t = mu p_{t-1} + s a_t, m_t = beta m_{t-1} + (1-beta) a_t^2.

    The Adam of Nguyen et al. (NeurIPS 2020) on the core of Gu et al. (ICML 2020).
    """


class URGRU(IdentityDriven, URGRUCore):
    """h_t = g h_{t-1} + (1-g) tanh(a_n + s u_n); g = 2 r f + (1-2r) f^2; f, r, s = sig(a + u).

    a = W x_t + b_ih, u = U h_{t-1} + b_hh.

    Source: Gu, Gulcehre, Paine, Hoffman and Pascanu, "Improving the Gating Mechanism of Recurrent Neural Networks",
    ICML 2020, on the GRU of torch.nn.GRU.
    """
