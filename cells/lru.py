"""The linear recurrent unit: a complex diagonal linear recurrence.

Shapes: B batch, T time, I input_size, H hidden_size, N state_size.
"""

from __future__ import annotations

from functools import partial
from math import pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cells.cell import Cell, Step
from cells.engines.choice import Engine, check_engine
from cells.engines.fused import run_fused
from cells.engines.precision import full_precision, no_autocast, product_dtype
from cells.engines.scan import linear_scan
from cells.introspection import Flops
from cells.state import State
from cells.validation import number_in, positive_int


class LRUState(NamedTuple):
    """Real and imaginary part of the state x, each of shape (B, N), in float32 or float64."""

    real: Tensor
    imaginary: Tensor


class LRU(Cell):
    """x_t = lambda x_{t-1} + gamma B u_t, y_t = Re(C x_t) + D u_t, lambda = exp(-exp(nu) + i exp(theta)).

    u is the input and y the output; x, lambda, B and C are complex, and lambda and gamma are diagonal. The recurrence
    is momentum with one complex, learned mu for each unit, so that a momentum drive in front of it would add nothing.

    Parameters: ``nu``, ``theta`` and ``log_gamma`` of shape (N,); ``weight_in`` of shape (2N, I), the real part of B
    above the imaginary part; ``weight_out`` of shape (H, 2N), the real part of C next to minus its imaginary part;
    ``weight_skip``, D, of shape (H, I).

    Initialization: lambda is uniform on the ring between the radii ``r_min`` and ``r_max`` with a phase in
    (0, ``max_phase``), and gamma^2 is 1 minus the square of the radius. Both parts of B are normal with variance
    1 / (2 I), those of C with variance 1 / N, and D with variance 1 / I.

    Source: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu and De, "Resurrecting Recurrent Neural Networks for Long
    Sequences", ICML 2023 (arXiv 2303.06349). There D is diagonal, because input and output have the same width.

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of output features, H.
        state_size: Number of complex units, N; None means hidden_size.
        r_min: Smallest radius, in [0, 1).
        r_max: Largest radius, above ``r_min`` and at most 1.
        max_phase: Largest phase, in (0, 2 pi].
        engine: ``reference``, ``scan``, ``fused`` or ``auto``.

    Raises:
        ValueError: if an argument is out of range.
    """

    scannable = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        state_size: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * pi,
        engine: Engine = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size)
        N = self.state_size = hidden_size if state_size is None else positive_int("state_size", state_size)
        self.r_min = number_in("[0, 1)", "r_min", r_min)
        self.r_max = number_in(f"({r_min}, 1]", "r_max", r_max)
        self.max_phase = number_in(f"(0, {2 * pi}]", "max_phase", max_phase)
        self.engine = engine
        check_engine(self)
        self.nu = nn.Parameter(torch.empty(N))
        self.theta = nn.Parameter(torch.empty(N))
        self.log_gamma = nn.Parameter(torch.empty(N))
        self.weight_in = nn.Parameter(torch.empty(2 * N, input_size))
        self.weight_out = nn.Parameter(torch.empty(hidden_size, 2 * N))
        self.weight_skip = nn.Parameter(torch.empty(hidden_size, input_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new initial parameters."""
        least = torch.finfo(self.nu.dtype).eps  # nu and log_gamma are infinite for a radius of 0 or 1
        square_N = self.r_min**2 + torch.rand_like(self.nu) * (self.r_max**2 - self.r_min**2)
        square_N = square_N.clamp(least, 1 - least)
        self.nu.copy_(torch.log(-0.5 * torch.log(square_N)))
        self.theta.copy_(torch.log(self.max_phase * torch.rand_like(self.theta).clamp(min=least)))
        self.log_gamma.copy_(0.5 * torch.log1p(-square_N))
        nn.init.normal_(self.weight_in, std=(2 * self.input_size) ** -0.5)
        nn.init.normal_(self.weight_out, std=self.state_size**-0.5)
        nn.init.normal_(self.weight_skip, std=self.input_size**-0.5)

    def initial_state(self, batch_size: int) -> LRUState:
        zeros_BN = full_precision(self.nu.new_zeros(batch_size, self.state_size))
        return LRUState(zeros_BN, zeros_BN.clone())

    def recurrence(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return real and imaginary part of lambda, each of shape (N,), and the weight gamma B of shape (2N, I)."""
        with no_autocast(self.nu):
            radius_N = torch.exp(-torch.exp(full_precision(self.nu)))
            phase_N = torch.exp(full_precision(self.theta))
            gamma_N = torch.exp(full_precision(self.log_gamma)).repeat(2)
            weight = (gamma_N[:, None] * full_precision(self.weight_in)).to(self.weight_in.dtype)
            return radius_N * torch.cos(phase_N), radius_N * torch.sin(phase_N), weight

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, LRUState]:
        return self.step_with(*self.recurrence(), x_BI, state)

    def stepper(self) -> Step:
        return partial(self.step_with, *self.recurrence())

    def step_with(
        self, lambda_real: Tensor, lambda_imaginary: Tensor, weight: Tensor, x_BI: Tensor, state: State
    ) -> tuple[Tensor, LRUState]:
        """Compute :meth:`step` with what :meth:`recurrence` returns, which a sequence computes only once."""
        in_real, in_imaginary = F.linear(x_BI, weight).to(state.real.dtype).chunk(2, -1)
        real_BN = lambda_real * state.real - lambda_imaginary * state.imaginary + in_real
        imaginary_BN = lambda_imaginary * state.real + lambda_real * state.imaginary + in_imaginary
        return self.read(real_BN, imaginary_BN, x_BI), LRUState(real_BN, imaginary_BN)

    def read(self, real: Tensor, imaginary: Tensor, x: Tensor) -> Tensor:
        """Return y from the state and the input, of a step or of a sequence, in the dtype of the parameters."""
        dtype = self.nu.dtype
        of_state = F.linear(torch.cat([real, imaginary], -1).to(dtype), self.weight_out).to(dtype)
        return of_state + F.linear(x, self.weight_skip).to(dtype)

    def run_scan(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        *lambda_parts, weight = self.recurrence()
        in_BT2N = F.linear(x_BTI, weight)
        with no_autocast(x_BTI):
            in_BTN = torch.complex(*full_precision(in_BT2N).chunk(2, -1))
            lambda_11N = torch.complex(*lambda_parts)[None, None]
            state_BTN = linear_scan(lambda_11N, in_BTN, torch.complex(*state))
            real_BTN, imaginary_BTN = state_BTN.real, state_BTN.imag
        last = LRUState(real_BTN[:, -1].contiguous(), imaginary_BTN[:, -1].contiguous())
        return self.read(real_BTN, imaginary_BTN, x_BTI), last

    def run_fused(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        return run_fused(self.stepper(), x_BTI, state, product_dtype(self.weight_in))

    def flops(self, T: int, batch: int, *, input_grad: bool) -> Flops:
        I, H, N = self.input_size, self.hidden_size, self.state_size  # noqa: E741
        of_input, of_state = 2 * batch * T * I * (2 * N + H), 2 * batch * T * 2 * N * H
        forward = of_input + of_state
        return Flops(forward, forward + of_state + (of_input if input_grad else 0))
