"""Long short-term memory with every drive.

Shapes: B batch, H hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cells.cores.gated import GatedCore
from cells.driven import AdamDriven, IdentityDriven, MomentumDriven, RMSPropDriven, SRDriven
from cells.validation import number_in


class LSTMState(NamedTuple):
    """h and c, each of shape (B, H)."""

    h: Tensor
    c: Tensor


class LSTMCore(GatedCore):
    """i, f, g, o = v_t + u_t; c_t = sig(f) c_{t-1} + sig(i) tanh(g); h_t = sig(o) tanh(c_t).

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000; gate order i, f, g, o.

    Args:
        forget_bias: Initial value of the forget block in both biases; without a drive their sum acts on the gate. None
            leaves the biases that ``init`` gives.
    """

    gates = 4
    gate_names = ("i", "f", "g", "o")
    keeps = 1
    admits = 0
    kernel: ClassVar[Callable[..., Any] | None] = staticmethod(torch.lstm)

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float | None = None, **core: Any) -> None:
        self.forget_bias = None if forget_bias is None else number_in("(-inf, inf)", "forget_bias", forget_bias)
        super().__init__(input_size, hidden_size, **core)
        if forget_bias is not None and self.bias_ih is None:
            raise ValueError(f"forget_bias must be None without biases (bias is False), got {forget_bias}")
        if forget_bias is not None and self.max_timescale is not None:
            raise ValueError(
                f"forget_bias must be None if max_timescale sets the bias ({self.max_timescale}), got {forget_bias}"
            )

    def reset_parameters(self) -> None:
        super().reset_parameters()
        forget_bias = 1.0 if self.forget_bias is None and self.init == "published" else self.forget_bias
        for bias in (self.bias_ih, self.bias_hh):
            if bias is not None and forget_bias is not None and self.max_timescale is None:
                nn.init.constant_(bias[self.hidden_size : 2 * self.hidden_size], forget_bias)

    def initial_core_state(self, zeros_BH: Tensor) -> LSTMState:
        return LSTMState(zeros_BH, zeros_BH.clone())

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        i, f, g, o = (v_BG + u_BG).chunk(4, -1)
        c_BH = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(g)
        h_BH = torch.sigmoid(o) * torch.tanh(c_BH)
        return h_BH, LSTMState(h_BH, c_BH)

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        i, f, _, o = torch.sigmoid(v_BG + u_BG).chunk(4, -1)
        return {"i": i, "f": f, "o": o}


class LSTM(IdentityDriven, LSTMCore):
    """c_t = sig(f) c_{t-1} + sig(i) tanh(g), h_t = sig(o) tanh(c_t); i, f, g, o = W x_t + b_ih + U h_{t-1} + b_hh.

    It equals torch.nn.LSTM with one layer, in values and parameter names.
    """


class MomentumLSTM(MomentumDriven, LSTMCore):
    """LSTM with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t.

    It equals an LSTM on the filtered input [x~_t, s~_t] with x~_t = mu x~_{t-1} + s x_t and s~ the filtered 1.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class SRLSTM(SRDriven, LSTMCore):
    """LSTM with v_t in place of a_t = W x_t + b_ih: v_t = (k-1)/(k+2) v_{t-1} + s a_t, k = 1, .., F, 1, ...

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020. Its
    public code for MNIST and TIMIT uses this name for :class:`NesterovLSTM`.
    """


class RMSPropLSTM(RMSPropDriven, LSTMCore):
    """LSTM with v_t in place of a_t = W x_t + b_ih: v_t = s a_t / sqrt(m_t + delta).

    m_t = beta m_{t-1} + (1-beta) a_t^2.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class AdamLSTM(AdamDriven, LSTMCore):
    """LSTM with v_t = p_t / sqrt(m_t + delta), p_t = mu p_{t-1} + s a_t, m_t = beta m_{t-1} + (1-beta) a_t^2.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """
