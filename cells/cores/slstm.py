"""sLSTM, the scalar memory of xLSTM: exponential gates and a normalized cell state, with drives.

Shapes: B batch, H hidden_size, G = 4 x H, N heads, d = H / N units of a head.
"""

from __future__ import annotations

from math import inf
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cells.cores.gated import GatedCore
from cells.driven import IdentityDriven, MomentumDriven
from cells.validation import one_of, positive_int


class SLSTMState(NamedTuple):
    """h, c, the normalizer n and the stabilizer m, each of shape (B, H).

    c and n are stored divided by e^m, which keeps them in the range of numbers.
    """

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


class SLSTMCore(GatedCore):
    """i, f, z, o = v_t + u_t; c_t = f' c_{t-1} + i' tanh(z); n_t = f' n_{t-1} + i'; h_t = sig(o) c_t / n_t.

    i' = e^(i - m_t) and f' = e^(log F(f) + m_{t-1} - m_t) with the stabilizer m_t = max(log F(f) + m_{t-1}, i), which
    cancels in c_t / n_t. F is the sigmoid or the exponential function. Initially h, c and n are 0 and m is -infinity.

    U is block-diagonal: a unit reads the d units of its head only. ``weight_hh`` of shape (G, d) has the blocks below
    each other. The engines multiply by the whole matrix, with zeros outside of the blocks, so that heads save
    parameters but no operations. ``max_timescale`` sets the bias of a sigmoid forget gate.

    Source: Beck et al., "xLSTM: Extended Long Short-Term Memory", NeurIPS 2024 (arXiv 2405.04517). The initialization
    is that of the other cells here.

    Args:
        heads: N, which divides hidden_size.
        forget_gate: F.
    """

    gates = 4
    gate_names = ("i", "f", "z", "o")
    keeps = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 1,
        forget_gate: Literal["sigmoid", "exponential"] = "sigmoid",
        **core: Any,
    ) -> None:
        self.heads = positive_int("heads", heads)
        if positive_int("hidden_size", hidden_size) % heads:
            raise ValueError(f"heads must divide hidden_size = {hidden_size}, got {heads}")
        self.forget_gate = one_of("forget_gate", forget_gate, ("sigmoid", "exponential"))
        super().__init__(input_size, hidden_size, **core)
        if self.max_timescale is not None and forget_gate == "exponential":
            raise ValueError(
                f"max_timescale must be None for the forget gate 'exponential', which it does not fit, "
                f"got {self.max_timescale}"
            )

    @property
    def recurrent_inputs(self) -> int:
        return self.hidden_size // self.heads

    def recurrent_weight(self) -> Tensor:
        if self.heads == 1:
            return self.weight_hh
        d = self.recurrent_inputs
        blocks = self.weight_hh.view(self.gates, self.heads, d, 1, d)
        own_NN = torch.eye(self.heads, dtype=blocks.dtype, device=blocks.device)
        return (blocks * own_NN[:, None, :, None]).reshape(-1, self.hidden_size)

    def initial_core_state(self, zeros_BH: Tensor) -> SLSTMState:
        return SLSTMState(zeros_BH, zeros_BH.clone(), zeros_BH.clone(), torch.full_like(zeros_BH, -inf))

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: SLSTMState) -> tuple[Tensor, SLSTMState]:
        i, f, z, o = (v_BG + u_BG).chunk(4, -1)
        kept = (f if self.forget_gate == "exponential" else F.logsigmoid(f)) + state.m
        m_BH = torch.maximum(kept, i)
        keep_BH, admit_BH = torch.exp(kept - m_BH), torch.exp(i - m_BH)
        c_BH = keep_BH * state.c + admit_BH * torch.tanh(z)
        n_BH = keep_BH * state.n + admit_BH
        h_BH = torch.sigmoid(o) * c_BH / n_BH
        return h_BH, SLSTMState(h_BH, c_BH, n_BH, m_BH)

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        _, f, _, o = torch.sigmoid(v_BG + u_BG).chunk(4, -1)
        return {"o": o} if self.forget_gate == "exponential" else {"f": f, "o": o}

    def resting_forget_bias(self) -> Tensor | None:
        return None if self.forget_gate == "exponential" else super().resting_forget_bias()


class SLSTM(IdentityDriven, SLSTMCore):
    """c_t = f c_{t-1} + i z, n_t = f n_{t-1} + i, h_t = o c_t / n_t; i = exp(a_i), f = F(a_f), z = tanh, o = sig.

    a = W x_t + b_ih + U h_{t-1} + b_hh, and F is the sigmoid or the exponential function. A stabilizer m keeps the
    exponential gates in the range of numbers, and U is block-diagonal with ``heads`` blocks.

    Source: Beck et al., "xLSTM: Extended Long Short-Term Memory", NeurIPS 2024 (arXiv 2405.04517).
    """


class MomentumSLSTM(MomentumDriven, SLSTMCore):
    """SLSTM with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t.

    The momentum of Nguyen et al. (NeurIPS 2020) on the core of Beck et al. (NeurIPS 2024).
    """
