"""LSTM and GRU with uniform gate initialization and refine gates (UR), with every drive.

Shapes: B batch, K steps of a chunk, H hidden_size, G = 4 x H, Z numbers kept of a step (URLSTM 4 H, URGRU 5 H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cells.cores.gated import set_gate_bias
from cells.cores.gru import GRUState
from cells.cores.lstm import LSTMState
from cells.cores.torch_core import TorchCore
from cells.driven import AdamDriven, IdentityDriven, MomentumDriven, RMSPropDriven
from cells.engines.bptt import CandidateApartRecurrence, CellStateRecurrence, sigmoid_backward, tanh_backward


class URLSTMRecurrence(CellStateRecurrence):
    """f, r, p, o = z; c = g c_{t-1} + (1 - g) tanh(p), g = refined(f, r); h = sig(o) tanh(c)."""

    def next_state(
        self, first_HB: Tensor, second_HB: Tensor, candidate_HB: Tensor, c_HB: Tensor, out: Tensor
    ) -> Tensor:
        g_HB = refine(first_HB, second_HB, torch.empty_like(c_HB), torch.empty_like(c_HB))
        return torch.lerp(candidate_HB, c_HB, g_HB, out=out)

    def derivatives(self, blocks: Sequence[Tensor], before_KHB: Tensor, out: Sequence[Tensor]) -> Tensor:
        f, r, p = blocks
        g_KHB = refine_backward(f, r, before_KHB - p, out[0], out[1])
        tanh_backward(1 - g_KHB, p, grad_input=out[2])
        return g_KHB


class URGRURecurrence(CandidateApartRecurrence):
    """f, r, s = z; n = tanh(v_n + sig(s) u_n); h = g h_{t-1} + (1 - g) n, g = refined(f, r).

    z_KZB has five blocks: f, r, s and u_n, to which the products are added, and v_n.
    """

    blocks = 4

    def forward(
        self, z_KZB: Tensor, h_HB: Tensor, own: Sequence[Tensor], add_product: Callable[[int, Tensor], None]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        K, (H, B) = len(z_KZB), h_HB.shape
        h_KHB = h_HB.new_empty(K, H, B)
        g_HB, spare_HB = torch.empty_like(h_HB), torch.empty_like(h_HB)
        minus_one = z_KZB.new_full((), -1.0)
        f, r, s, u, n = (block_KHB.unbind(0) for block_KHB in z_KZB.view(K, 5, H, B).unbind(1))
        frs = z_KZB[:, : 3 * H].unbind(0)
        for t, h_out_HB in enumerate(h_KHB.unbind(0)):
            add_product(t, h_HB)
            frs[t].sigmoid_()
            n_HB = n[t].addcmul_(s[t], u[t])
            torch.add(minus_one, n_HB.add_(n_HB).sigmoid_(), alpha=2, out=n_HB)
            h_HB = torch.lerp(n_HB, h_HB, refine(f[t], r[t], g_HB, spare_HB), out=h_out_HB)
        return h_KHB, (), ()

    def backward(
        self,
        kept: Sequence[Tensor],
        before_KHB: Tensor,
        dh: Sequence[Tensor],
        dlast: Sequence[Tensor | None],
        add_product: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z_KZB = kept[0]
        K, H, B = before_KHB.shape
        f, r, s, u, n = z_KZB.view(K, 5, H, B).unbind(1)
        d_K5HB = torch.empty_like(z_KZB).view(K, 5, H, B)
        g_KHB = refine_backward(f, r, before_KHB - n, d_K5HB[:, 0], d_K5HB[:, 1])
        d_n = tanh_backward(1 - g_KHB, n, grad_input=d_K5HB[:, 4])
        torch.mul(d_n, s, out=d_K5HB[:, 3])
        sigmoid_backward(d_n * u, s, grad_input=d_K5HB[:, 2])
        by_u = d_K5HB[:, :4].flatten(1, 2).unbind(0)
        for t, (d_5HB, g_HB) in reversed(list(enumerate(zip(d_K5HB.unbind(0), g_KHB.unbind(0), strict=True)))):
            d_5HB.mul_(dh[t + 1])
            dh[t].addcmul_(dh[t + 1], g_HB)
            add_product(t, by_u[t])
        return d_K5HB.view(K, 5 * H, B), ()


def refine(f: Tensor, r: Tensor, out: Tensor, spare: Tensor) -> Tensor:
    """Return g = 2 r f + (1 - 2 r) f^2 = f (f + 2 r (1 - f)) from the values of the gates."""
    torch.addcmul(r, r, f, value=-1, out=spare)  # r (1 - f)
    return torch.mul(f, torch.add(f, spare, alpha=2, out=spare), out=out)


def refine_backward(f: Tensor, r: Tensor, by_g: Tensor, d_f: Tensor, d_r: Tensor) -> Tensor:
    """Return g, and write ``by_g`` times its derivatives with respect to the pre-activations to ``d_f`` and ``d_r``."""
    sigmoid_backward(by_g * (2 * r + (2 - 4 * r) * f), f, grad_input=d_f)
    sigmoid_backward(by_g * (2 * f * (1 - f)), r, grad_input=d_r)
    return refine(f, r, torch.empty_like(by_g), torch.empty_like(by_g))


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

    recurrence = URLSTMRecurrence

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

    recurrence = URGRURecurrence

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
