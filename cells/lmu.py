"""The Legendre memory unit: a linear memory of the last theta steps, read by a tanh layer.

Shapes: B batch, T time, I input_size, H hidden_size, N order of the memory, D = I + N, K steps of a block, M blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cells.cell import Cell
from cells.engines.choice import Engine, check_engine
from cells.engines.library import LibraryWeights, run_library
from cells.engines.precision import no_autocast
from cells.state import State
from cells.validation import number_in, one_of, positive_int


class LMUState(NamedTuple):
    """h of shape (B, H) and the memory m of shape (B, N)."""

    h: Tensor
    m: Tensor


class LMU(Cell):
    """u_t = e_x x_t + e_h h_{t-1} + e_m m_{t-1}, m_t = A m_{t-1} + B u_t, h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t).

    The memory m holds the coefficients of u over the last ``theta`` steps in Legendre polynomials. A and B are fixed:
    A_ij = (2i+1)/theta (-1 if i < j else (-1)^(i-j+1)), B_i = (2i+1)/theta (-1)^i, discretized by zero-order hold with
    a step of 1. The whole cell is computed in full precision, even under autocast, because errors accumulate in m.

    Without ``feedback`` the memory is a linear filter of the input. It is then computed for the whole sequence at
    once, and torch's kernel for tanh recurrent networks reads it (the engine ``library``). With ``feedback`` the step
    loop runs (``reference``).

    Source: Voelker, Kajic and Eliasmith, "Legendre Memory Units: Continuous-Time Representation in Recurrent Neural
    Networks", NeurIPS 2019, and its public code (github.com/abr/neurips2019).

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of hidden units, H.
        order: Number of coefficients, N.
        theta: Length of the window in steps, above 0.
        feedback: Whether h and m are written into the memory. With False the cell has no e_h and e_m.
        init: ``general``, the defaults of the public code: e_x and e_h uniform in +-sqrt(3 / fan-in), e_m = 0, the
            three W normal with variance 2 / (fan-in + fan-out). ``published``, its experiment on permuted MNIST:
            e_x = 1, and the initial e_h, e_m, W_x and W_h are 0.
        engine: ``reference``, ``library`` or ``auto``.

    Raises:
        ValueError: if an argument is out of range.
    """

    kernel: ClassVar[Callable[..., Any] | None] = staticmethod(torch.rnn_tanh)
    A: Tensor
    B: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        order: int = 32,
        theta: float = 100.0,
        feedback: bool = True,
        init: Literal["general", "published"] = "general",
        engine: Engine = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.order = positive_int("order", order)
        self.theta = number_in("(0, inf)", "theta", theta)
        self.feedback = feedback
        self.init = one_of("init", init, ("general", "published"))
        self.engine = engine
        check_engine(self)
        A_NN, B_N = legendre_memory(order, theta)
        dtype = torch.get_default_dtype()
        self.register_buffer("A", A_NN.to(dtype), persistent=False)  # order and theta determine them
        self.register_buffer("B", B_N.to(dtype), persistent=False)
        self.e_x = nn.Parameter(torch.empty(input_size))
        self.e_h = nn.Parameter(torch.empty(hidden_size)) if feedback else None
        self.e_m = nn.Parameter(torch.empty(order)) if feedback else None
        self.W_x = nn.Parameter(torch.empty(hidden_size, input_size))
        self.W_h = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.W_m = nn.Parameter(torch.empty(hidden_size, order))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial parameters by the scheme ``init``."""
        for encoder in (self.e_x, self.e_h):
            if encoder is not None:
                bound = sqrt(3 / len(encoder))
                nn.init.uniform_(encoder, -bound, bound)
        for kernel in (self.W_x, self.W_h, self.W_m):
            nn.init.xavier_normal_(kernel)
        if self.init == "published":
            nn.init.ones_(self.e_x)
            for parameter in (self.e_h, self.W_x, self.W_h):
                if parameter is not None:
                    nn.init.zeros_(parameter)
        if self.e_m is not None:
            nn.init.zeros_(self.e_m)

    @property
    def library(self) -> bool:
        """Whether torch's kernel can run the cell: its input, the memory, must not depend on h."""
        return not self.feedback

    def initial_state(self, batch_size: int) -> LMUState:
        return LMUState(self.W_h.new_zeros(batch_size, self.hidden_size), self.W_h.new_zeros(batch_size, self.order))

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, LMUState]:
        with no_autocast(x_BI):
            x_BI = x_BI.to(self.W_x.dtype)
            u_B = x_BI @ self.e_x
            if self.e_h is not None and self.e_m is not None:
                u_B = u_B + state.h @ self.e_h + state.m @ self.e_m
            m_BN = torch.addmm(u_B[:, None] * self.B, state.m, self.A.t())
            z_BH = torch.addmm(F.linear(x_BI, self.W_x), state.h, self.W_h.t())
            h_BH = torch.addmm(z_BH, m_BN, self.W_m.t()).tanh()
        return h_BH, LMUState(h_BH, m_BN)

    def run_library(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        with no_autocast(x_BTI):
            x_BTI = x_BTI.to(self.W_x.dtype)
            m_BTN = self.remember(x_BTI @ self.e_x, state.m)
            weights = LibraryWeights(torch.cat([self.W_x, self.W_m], 1), self.W_h)
            x_BTD = torch.cat([x_BTI, m_BTN], -1)
            y_BTH, (h_BH,) = run_library(torch.rnn_tanh, x_BTD, weights, (state.h,))
        return y_BTH, LMUState(h_BH, m_BTN[:, -1])

    def remember(self, u_BT: Tensor, m_BN: Tensor) -> Tensor:
        """Return m_t of all steps from ``m_BN``, the memory before the first, in blocks of about sqrt(T) steps.

        One product with a Toeplitz matrix computes the response to u within each of the blocks. A loop carries the ends
        of the blocks forward. One more product computes A^k m, the contribution of each end k steps into the next
        block. A convolution by FFT is as fast but less accurate in float32, and does not include ``m_BN``.
        """
        rows, T = u_BT.shape
        N = self.order
        K = ceil(sqrt(T))
        M = ceil(T / K)
        with torch.no_grad():
            powers = [self.A]
            for _ in range(K - 1):
                powers.append(self.A @ powers[-1])
            after_NKN = torch.stack(powers).permute(2, 0, 1)  # A^1 .. A^K, to be applied to row vectors
            answers_KN = torch.cat([self.B[None], torch.stack(powers[:-1]) @ self.B]) if K > 1 else self.B[None]
            lag_KK = torch.arange(K, device=u_BT.device)[None] - torch.arange(K, device=u_BT.device)[:, None]
            toeplitz_KKN = answers_KN[lag_KK.clamp(min=0)] * (lag_KK >= 0)[:, :, None]
        u_BMK = F.pad(u_BT, (0, M * K - T)).view(rows, M, K)
        inner_BMKN = (u_BMK @ toeplitz_KKN.view(K, K * N)).view(rows, M, K, N)
        starts = [m_BN]
        for end_BN in inner_BMKN[:, :-1, -1].unbind(1):
            starts.append(torch.addmm(end_BN, starts[-1], powers[-1].t()))
        left_BMKN = (torch.stack(starts, 1) @ after_NKN.reshape(N, K * N)).view(rows, M, K, N)
        return (inner_BMKN + left_BMKN).view(rows, M * K, N)[:, :T]


def legendre_memory(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return A of shape (N, N) and B of shape (N,) of the memory, discretized by zero-order hold, in float64.

    During a step u is a constant part of the state: exp [[A, B], [0, 0]] = [[A', B'], [0, 1]].
    """
    i_N = torch.arange(order, dtype=torch.float64)
    sign_NN = torch.where(i_N[:, None] < i_N, -1.0, (-1.0) ** (i_N[:, None] - i_N + 1))
    held = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    held[:-1, :-1] = ((2 * i_N + 1) / theta)[:, None] * sign_NN
    held[:-1, -1] = (2 * i_N + 1) / theta * (-1.0) ** i_N
    held = torch.linalg.matrix_exp(held)
    return held[:-1, :-1].contiguous(), held[:-1, -1].contiguous()
