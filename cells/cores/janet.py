"""JANET, an LSTM with only a forget gate, with every drive.

Shapes: B batch, K steps of a chunk, H hidden_size, Z = G = 2 x H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cells.cores.gated import GatedCore
from cells.cores.tanh import RNNState
from cells.driven import AdamDriven, IdentityDriven, MomentumDriven, RMSPropDriven
from cells.engines.bptt import Recurrence, sigmoid_backward, tanh_backward
from cells.validation import number_in


class JANETRecurrence(Recurrence):
    """f, g = z; h = sig(f) h_{t-1} + (1 - sig(f - lag)) tanh(g). The core's parameter is the lag."""

    def forward(
        self, z_KZB: Tensor, h_HB: Tensor, own: Sequence[Tensor], add_product: Callable[[int, Tensor], None]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        K, (H, B) = len(z_KZB), h_HB.shape
        h_KHB = h_HB.new_empty(K, H, B)
        admit_HB, spare_HB = torch.empty_like(h_HB), torch.empty_like(h_HB)
        one, minus_one = z_KZB.new_full((), 1.0), z_KZB.new_full((), -1.0)
        f, g = (block_KHB.unbind(0) for block_KHB in z_KZB.view(K, 2, H, B).unbind(1))
        for t, h_out_HB in enumerate(h_KHB.unbind(0)):
            add_product(t, h_HB)
            torch.sub(f[t], own[0], out=admit_HB).sigmoid_()
            torch.sub(one, admit_HB, out=admit_HB)
            torch.add(minus_one, g[t].add_(g[t]).sigmoid_(), alpha=2, out=g[t])
            torch.sigmoid(f[t], out=spare_HB)
            h_HB = torch.mul(spare_HB, h_HB, out=h_out_HB).addcmul_(admit_HB, g[t])
        return h_KHB, (), ()

    def backward(
        self,
        kept: Sequence[Tensor],
        before_KHB: Tensor,
        dh: Sequence[Tensor],
        dlast: Sequence[Tensor | None],
        add_product: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z_KZB, _, lag = kept
        K, H, B = before_KHB.shape
        f, g = z_KZB.view(K, 2, H, B).unbind(1)
        keep_KHB, shifted_KHB = torch.sigmoid(f), torch.sigmoid(f - lag)
        d_K2HB = torch.empty_like(z_KZB).view(K, 2, H, B)
        tanh_backward(1 - shifted_KHB, g, grad_input=d_K2HB[:, 1])
        sigmoid_backward(before_KHB, keep_KHB, grad_input=d_K2HB[:, 0])
        d_K2HB[:, 0] -= sigmoid_backward(g, shifted_KHB, grad_input=shifted_KHB)
        d = d_K2HB.flatten(1, 2).unbind(0)
        for t, (d_2HB, keep_HB) in reversed(list(enumerate(zip(d_K2HB.unbind(0), keep_KHB.unbind(0), strict=True)))):
            d_2HB.mul_(dh[t + 1])
            dh[t].addcmul_(dh[t + 1], keep_HB)
            add_product(t, d[t])
        return d_K2HB.view(K, 2 * H, B), (torch.zeros_like(lag),)


class JANETCore(GatedCore):
    """f, g = v_t + u_t; h_t = sig(f) h_{t-1} + (1 - sig(f - lag)) tanh(g).

    Source: van der Westhuizen and Lasenby, "The unreasonable effectiveness of the forget gate", 2018. They use the
    chrono initialization, ``max_timescale``.

    Args:
        lag: Difference between the pre-activations of the forget gate and of the input gate: 1 as published (there
            called beta); 0 ties the two gates.
    """

    gates = 2
    gate_names = ("f", "g")
    keeps = 0
    recurrence = JANETRecurrence

    def __init__(self, input_size: int, hidden_size: int, *, lag: float = 1.0, **core: Any) -> None:
        self.lag = number_in("[0, inf)", "lag", lag)
        super().__init__(input_size, hidden_size, **core)

    def own_parameters(self) -> tuple[Tensor, ...]:
        return (self.weight_ih.new_tensor(self.lag),)

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
