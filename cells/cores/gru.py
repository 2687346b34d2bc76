"""Gated recurrent units with every drive.

Shapes: B batch, H hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from cells.cores.gated import GatedCore
from cells.driven import AdamDriven, IdentityDriven, MomentumDriven, RMSPropDriven, SRDriven


class GRUState(NamedTuple):
    """h of shape (B, H)."""

    h: Tensor


class GRUCore(GatedCore):
    """r, z, n from v_t and u_t = U h_{t-1} + b_hh, combined as in torch.nn.GRU.

    r = sig(v_r + u_r); z = sig(v_z + u_z); n = tanh(v_n + r u_n); h_t = (1 - z) n + z h_{t-1}.

    Source: Cho et al. 2014, in the form of torch.nn.GRU (the reset gate acts on U h + b_hh).
    """

    gates = 3
    gate_names = ("r", "z", "n")
    keeps = 1
    keeps_name = "update gate"
    kernel: ClassVar[Callable[..., Any] | None] = staticmethod(torch.gru)

    def initial_core_state(self, zeros_BH: Tensor) -> GRUState:
        return GRUState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: GRUState) -> tuple[Tensor, GRUState]:
        v_r, v_z, v_n = v_BG.chunk(3, -1)
        u_r, u_z, u_n = u_BG.chunk(3, -1)
        z_BH = torch.sigmoid(v_z + u_z)
        n_BH = torch.tanh(v_n + torch.sigmoid(v_r + u_r) * u_n)
        h_BH = n_BH + z_BH * (state.h - n_BH)
        return h_BH, GRUState(h_BH)

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        r, z, _ = torch.sigmoid(v_BG + u_BG).chunk(3, -1)
        return {"r": r, "z": z}


class GRU(IdentityDriven, GRUCore):
    """h_t = (1 - z) n + z h_{t-1}; r, z = sig(a + u), n = tanh(a_n + r u_n); a = W x_t + b_ih, u = U h_{t-1} + b_hh."""


class MomentumGRU(MomentumDriven, GRUCore):
    """GRU with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t.

    The paper's momentum (Nguyen et al., NeurIPS 2020) on the core of torch.nn.GRU; the paper has no GRU.
    """


class SRGRU(SRDriven, GRUCore):
    """GRU with v_t in place of a_t = W x_t + b_ih: v_t = (k-1)/(k+2) v_{t-1} + s a_t, k = 1, .., F, 1, ...

    The paper's scheduled restart (Nguyen et al., NeurIPS 2020) on the core of torch.nn.GRU; the paper has no GRU.
    """


class RMSPropGRU(RMSPropDriven, GRUCore):
    """GRU with v_t in place of a_t = W x_t + b_ih: v_t = s a_t / sqrt(m_t + delta).

    m_t = beta m_{t-1} + (1-beta) a_t^2.

    The paper's RMSProp (Nguyen et al., NeurIPS 2020) on the core of torch.nn.GRU; the paper has no GRU.
    """


class AdamGRU(AdamDriven, GRUCore):
    """GRU with v_t = p_t / sqrt(m_t + delta), p_t = mu p_{t-1} + s a_t, m_t = beta m_{t-1} + (1-beta) a_t^2.

    The paper's Adam (Nguyen et al., NeurIPS 2020) on the core of torch.nn.GRU; the paper has no GRU.
    """
