"""Cells with Nesterov's accelerated gradient, for every core.

They do not consist of a drive and a core. With y_t = U h_{t-1} + b_hh + s a_t the core gets y_t + c_k (y_t - y_{t-1}).
The extrapolation includes the hidden state: it needs h_{t-1}, and momentum is part of dh_T/dh_t. The SR cells, whose
drive has the same schedule on the input alone, are different cells.

Shapes: B batch, T time, K steps of a chunk, I input_size, D = I + 1 with the constant 1, H hidden_size, G = gates x H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from cells.cores.base import Core
from cells.cores.gru import GRUCore
from cells.cores.lstm import LSTMCore
from cells.cores.orthogonal import DTRIVCore
from cells.cores.tanh import RNNCore
from cells.drives import restart_schedule
from cells.engines.choice import check_engine
from cells.introspection import TanhNetwork
from cells.state import State
from cells.validation import number_in, one_of, positive_int


class NesterovState(NamedTuple):
    """State of a Nesterov cell.

    Attributes:
        y_input: The part of the last y from the input, +-s a_t, of shape (B, G).
        y_hidden: The part from the hidden state, U h_{t-1} + b_hh, of shape (B, G). The parts are separate because the
            reset gate of the GRU acts on this one only.
        k: Count of the last step, of shape (B,); 0 before the first step.
        core: State of the core.
    """

    y_input: Tensor
    y_hidden: Tensor
    k: Tensor
    core: Any


class Nesterov(Core):
    """A core on y_t + (k-1)/(k+2) (y_t - y_{t-1}), y_t = U h_{t-1} + b_hh + s a_t, k = 1, 2, .., F, 1, 2, ...

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.

    Args:
        step_size: s, above 0.
        restart_period: F, the number of steps after which k returns to 1 (and y_{t-1} is forgotten); at least 1.
        sign: Sign of s a_t in y_t. 1 is the recurrence of the paper; its public code for MNIST and TIMIT computes -1,
            under the name SRLSTM.
    """

    kernel: ClassVar[Callable[..., Any] | None] = None  # torch's kernels for the cores do not extrapolate

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.6,
        restart_period: int = 40,
        sign: Literal[1, -1] = 1,
        **core: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, **core)
        self.step_size = number_in("(0, inf)", "step_size", step_size)
        self.restart_period = positive_int("restart_period", restart_period)
        self.sign = one_of("sign", sign, (1, -1))
        check_engine(self)

    def initial_state(self, batch_size: int) -> NesterovState:
        zeros_BG = self.weight_ih.new_zeros(batch_size, self.weight_ih.shape[0])
        zeros_BH = self.weight_ih.new_zeros(batch_size, self.hidden_size)
        k_B = zeros_BG.new_zeros(batch_size, dtype=torch.int64)
        return NesterovState(zeros_BG, zeros_BG.clone(), k_B, self.initial_core_state(zeros_BH))

    def pre_activations(self, weight_GH: Tensor, x_BI: Tensor, state: State) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
        a_BG = self.linear(x_BI, self.weight_ih, self.bias_ih)
        y_input = self.sign * self.step_size * a_BG
        y_hidden = self.recurrent_product(weight_GH, state.core)
        k_B, c_B = restart_schedule(state.k, self.restart_period, a_BG)
        v_BG = y_input + c_B[:, None] * (y_input - state.y_input)
        u_BG = y_hidden + c_B[:, None] * (y_hidden - state.y_hidden)
        return v_BG, u_BG, (y_input, y_hidden, k_B)

    def settled(self, a_G: Tensor) -> Tensor:
        return self.sign * self.step_size * a_G

    def gain_notes(self) -> Sequence[str]:
        bound = (
            "its activation bounds the state."
            if self.bounded
            else f"nothing bounds the state, which may grow by a factor of up to {1 + sqrt(2):.3g} per step."
        )
        note = f"The extrapolation includes h, so it is part of the recurrence; {bound}"
        return [note, *super().gain_notes()]

    def tanh_network(self) -> TanhNetwork | None:
        return None  # its pre-activation depends on h_{t-2} too


class NesterovRNN(Nesterov, RNNCore):
    """h_t = tanh(y_t + (k-1)/(k+2) (y_t - y_{t-1})), y_t = U h_{t-1} + b_hh + s (W x_t + b_ih), k = 1, .., F, 1, ..."""


class NesterovLSTM(Nesterov, LSTMCore):
    """LSTM on y_t + (k-1)/(k+2) (y_t - y_{t-1}), y_t = U h_{t-1} + b_hh + s (W x_t + b_ih), k = 1, .., F, 1, ...

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020. The numbers
    published there as SRLSTM for MNIST and TIMIT belong to this cell with ``sign`` -1.
    """


class NesterovGRU(Nesterov, GRUCore):
    """GRU on y_t + (k-1)/(k+2) (y_t - y_{t-1}), y_t = U h_{t-1} + b_hh + s (W x_t + b_ih), k = 1, .., F, 1, ...

    The reset gate acts on the extrapolated U h + b_hh. The paper (Nguyen et al., NeurIPS 2020) has no GRU.
    """


class NesterovDTRIV(Nesterov, DTRIVCore):
    """h_t = modReLU(y_t + (k-1)/(k+2) (y_t - y_{t-1})), y_t = U h_{t-1} + s W x_t, k = 1, .., F, 1, .., U = exp(A) B.

    The recurrence is unstable: the extrapolation multiplies components along eigenvalues of U far from 1 by up to
    1 + sqrt(2) per step, and modReLU is not bounded. Use a short ``restart_period`` and short sequences. The public
    code of the paper has no such cell; its SRDTRIV is :class:`SRDTRIV`.
    """
