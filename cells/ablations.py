"""Ablations: the simplest explanations of the gain of momentum, each as a cell to compare with MomentumLSTM.

Shapes: B batch, T time, I input_size, H hidden_size, N linear units, C channels of a drive.
"""

from __future__ import annotations

from math import log
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cells.cell import Cell
from cells.cores.lstm import LSTM, LSTMCore, MomentumLSTM
from cells.driven import DrivenCell
from cells.drives import Drive, Momentum
from cells.drives.coefficients import Learn
from cells.engines.choice import Engine
from cells.engines.precision import full_precision, no_autocast
from cells.engines.scan import linear_scan
from cells.state import State
from cells.validation import number_in, positive_int


class LinearState(NamedTuple):
    """The state of the linear units in front of an LSTM, of shape (B, C), and the state of the LSTM."""

    before: Tensor
    lstm: State


class FilteredLSTM(Cell):
    """LSTM on [x~_t, s~_t]: x~_t = mu x~_{t-1} + s x_t, and s~_t the same of a constant 1.

    It tests whether MomentumLSTM is more than a low-pass filter in front of an LSTM. It is not: with the W and b_ih of
    MomentumLSTM as the weights of x~ and s~, and b_ih = 0 here, the two cells are equal.

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of hidden units, H.
        momentum: mu in [0, 1).
        step_size: s, above 0.
        init: As for the LSTM.
        engine: As for the LSTM.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        momentum: float = 0.6,
        step_size: float = 0.6,
        init: Literal["torch", "published"] = "torch",
        engine: Engine = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.momentum = number_in("[0, 1)", "momentum", momentum)
        self.step_size = number_in("(0, inf)", "step_size", step_size)
        self.lstm = LSTM(input_size + 1, hidden_size, init=init, engine=engine)

    def initial_state(self, batch_size: int) -> LinearState:
        zeros_BC = full_precision(self.lstm.weight_ih.new_zeros(batch_size, self.input_size + 1))
        return LinearState(zeros_BC, self.lstm.initial_state(batch_size))

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, LinearState]:
        filtered_BC = self.momentum * state.before + self.step_size * full_precision(F.pad(x_BI, (0, 1), value=1.0))
        h_BH, lstm_state = self.lstm.step(filtered_BC.to(self.lstm.weight_ih.dtype), state.lstm)
        return h_BH, LinearState(filtered_BC, lstm_state)

    def forward(self, x_BTI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        before_BC, lstm_state = self.start_state(x_BTI, state)
        scaled_BTC = self.step_size * full_precision(F.pad(x_BTI, (0, 1), value=1.0))
        filtered_BTC = linear_scan(scaled_BTC.new_full((1, 1, 1), self.momentum), scaled_BTC, before_BC)
        y_BTH, lstm_state = self.lstm(filtered_BTC.to(self.lstm.weight_ih.dtype), lstm_state)
        return y_BTH, LinearState(filtered_BTC[:, -1], lstm_state)


class LinearStateLSTM(Cell):
    """LSTM on [x_t, n_t]: n_t = d n_{t-1} + (1 - d) (V x_t + c), N linear units with one decay d each.

    It tests whether additional linear state explains the gain: the LSTM gets the unchanged input and moving averages of
    it over many times, but no momentum.

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of hidden units of the LSTM, H.
        linear_units: N.
        longest: Longest time of the averages in steps, above 1. The initial 1 / (1 - d) are spread evenly on a
            logarithmic scale from 2 (at most ``longest``) to this; d is learned as a sigmoid.
        init: As for the LSTM.
        engine: As for the LSTM.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        linear_units: int = 16,
        longest: float = 100.0,
        init: Literal["torch", "published"] = "torch",
        engine: Engine = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.linear_units = positive_int("linear_units", linear_units)
        self.longest = number_in("(1, inf)", "longest", longest)
        self.to_linear = nn.Linear(input_size, linear_units)
        times_N = torch.logspace(log(min(2.0, longest)), log(longest), linear_units, base=torch.e)
        self.raw_decay = nn.Parameter(torch.log(times_N - 1))
        self.lstm = LSTM(input_size + linear_units, hidden_size, init=init, engine=engine)

    def initial_state(self, batch_size: int) -> LinearState:
        zeros_BN = self.raw_decay.new_zeros(batch_size, self.linear_units)
        return LinearState(full_precision(zeros_BN), self.lstm.initial_state(batch_size))

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, LinearState]:
        decay_N = torch.sigmoid(full_precision(self.raw_decay))
        n_BN = decay_N * state.before + (1 - decay_N) * full_precision(self.to_linear(x_BI))
        h_BH, lstm_state = self.lstm.step(torch.cat([x_BI, n_BN.to(self.raw_decay.dtype)], -1), state.lstm)
        return h_BH, LinearState(n_BN, lstm_state)

    def forward(self, x_BTI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        before_BN, lstm_state = self.start_state(x_BTI, state)
        u_BTN = full_precision(self.to_linear(x_BTI))
        with no_autocast(x_BTI):
            decay_11N = torch.sigmoid(full_precision(self.raw_decay))[None, None]
            n_BTN = linear_scan(decay_11N, (1 - decay_11N) * u_BTN, before_BN)
        y_BTH, lstm_state = self.lstm(torch.cat([x_BTI, n_BTN.to(self.raw_decay.dtype)], -1), lstm_state)
        return y_BTH, LinearState(n_BTN[:, -1], lstm_state)


class ScaledLSTM(DrivenCell, LSTMCore):
    """LSTM with v_t in place of a_t = W x_t + b_ih: v_t = s a_t.

    It tests whether the gain of momentum is only the scale of the input: MomentumLSTM with mu = 0.

    Args:
        step_size: s, above 0.
    """

    def __init__(self, input_size: int, hidden_size: int, *, step_size: float = 0.6, **core: Any) -> None:
        super().__init__(input_size, hidden_size, drive=Momentum(0.0, step_size), **core)


class LearnedMomentumLSTM(MomentumLSTM):
    """LSTM with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t, mu and s learned.

    It tests whether the result depends on the search for the published mu and s.

    Args:
        learn: ``scalar`` learns one mu and one s, ``unit`` one of each for every gate channel.
    """

    def __init__(self, input_size: int, hidden_size: int, *, learn: Learn = "scalar", **momentum: Any) -> None:
        super().__init__(input_size, hidden_size, learn=learn, **momentum)


class GatedMomentum(Drive):
    """v_t = mu_t v_{t-1} + step_size a_t, mu_t = sig(w_m . x_t + b_m), one number for all channels.

    It commutes with W as momentum does, so it runs on the input, whose first ``input_size`` channels are x.
    :class:`GatedMomentumDriven` documents the other arguments.
    """

    commutes_with_weights = True

    def __init__(self, input_size: int, momentum: float, step_size: float) -> None:
        super().__init__()
        number_in("(0, 1)", "momentum", momentum)
        self.step_size = number_in("(0, inf)", "step_size", step_size)
        self.weight = nn.Parameter(torch.zeros(input_size))
        self.bias = nn.Parameter(torch.tensor([log(momentum / (1 - momentum))]))

    def momentum(self, a: Tensor) -> Tensor:
        """Return mu_t of shape (.., 1)."""
        logits = (a[..., : len(self.weight)] * full_precision(self.weight)).sum(-1, keepdim=True)
        return torch.sigmoid(logits + full_precision(self.bias))

    def initial_state(self, zeros_BC: Tensor) -> Tensor:
        return zeros_BC

    def step(self, a_BC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v_BC = self.momentum(a_BC) * state + self.step_size * a_BC
        return v_BC, v_BC

    def forward(self, a_BTC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v_BTC = linear_scan(self.momentum(a_BTC), self.step_size * a_BTC, state)
        return v_BTC, v_BTC[:, -1]

    def settled(self, a_C: Tensor) -> Tensor:
        # at x near 0, where mu_t = sig(b_m), whatever a is
        return self.step_size / (1 - torch.sigmoid(self.bias)) * a_C

    def growth(self) -> float:
        return torch.sigmoid(self.bias).item()

    def extra_repr(self) -> str:
        return f"step_size={self.step_size}"


class GatedMomentumDriven(DrivenCell):
    """A core on v_t = mu_t v_{t-1} + step_size a_t, mu_t = sig(w_m . x_t + b_m).

    Args:
        momentum: Initial mu_t, in (0, 1); the initial w_m is 0.
        step_size: s, above 0.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, momentum: float = 0.6, step_size: float = 0.6, **core: Any
    ) -> None:
        drive = GatedMomentum(positive_int("input_size", input_size), momentum, step_size)
        super().__init__(input_size, hidden_size, drive=drive, **core)


class GatedMomentumLSTM(GatedMomentumDriven, LSTMCore):
    """LSTM with v_t in place of a_t = W x_t + b_ih: v_t = mu_t v_{t-1} + s a_t, mu_t = sig(w_m . x_t + b_m).

    It tests whether a momentum that depends on the input, as a gate does, is better than a constant one.
    """
