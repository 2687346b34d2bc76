"""Cells made of a drive in front of a core: v_t = drive(W x_t + b_ih), then a step of the core.

Shapes: B batch, T time, I input_size, H hidden_size, G = gates x H, D channels that reach the gate
weights, C channels of the drive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cells.cores.base import Core
from cells.drives import Adam, Drive, Identity, Momentum, RMSProp, ScheduledRestart
from cells.drives.coefficients import Learn
from cells.engines.choice import check_engine
from cells.engines.fused import run_fused
from cells.engines.library import LibraryWeights, run_library
from cells.engines.precision import full_precision, no_autocast
from cells.introspection import Flops, TanhNetwork
from cells.state import State
from cells.validation import positive_int


class DrivenState(NamedTuple):
    """State of a driven cell.

    Attributes:
        drive: State of the drive. The drive runs on the input and the constant 1 if it commutes with the weights,
            else on the gates.
        core: State of the core, a named tuple whose first field is h.
    """

    drive: State
    core: Any


class DrivenInput(NamedTuple):
    """The result of a drive on the input: v = d @ weight.T + bias, for a step or for a sequence.

    Attributes:
        d: Driven input of shape (.., D), in the dtype of the weights.
        weight: Weight of d, of shape (G, D).
        bias: Bias of shape (G,), or None if it is a column of the weight.
        state: Next state of the drive.
    """

    d: Tensor
    weight: Tensor
    bias: Tensor | None
    state: State


DriveRun = Callable[[Tensor, State], tuple[Tensor, State]]  # a drive over a sequence, or its step


class DrivenCell(Core):
    """h_t = core(v_t, u_t) with v_t = drive(W x_t + b_ih) and u_t = U h_{t-1} + b_hh.

    A named cell inherits a driven class and a core, in this order: ``class MomentumLSTM(MomentumDriven, LSTMCore)``.

    Args:
        drive: The drive.
        core: Arguments of the core.

    Raises:
        ValueError: if an argument is out of range, or if the engine cannot run the cell.
    """

    def __init__(self, input_size: int, hidden_size: int, *, drive: Drive, **core: Any) -> None:
        super().__init__(input_size, hidden_size, **core)
        self.drive = drive
        check_engine(self)

    @property
    def library(self) -> bool:
        """Whether torch has a kernel for the core."""

        def origin(name: str) -> type:
            return next(cls for cls in type(self).__mro__ if name in vars(cls))

        return self.kernel is not None and origin("kernel") is origin("core_step")  # else a subclass computes otherwise

    @property
    def library_is_direct(self) -> bool:
        return self.drive.commutes_with_weights

    def initial_state(self, batch_size: int) -> State:
        zeros_BH = self.weight_ih.new_zeros(batch_size, self.hidden_size)
        on_input = self.input_size + (self.bias_ih is not None)
        channels = on_input if self.drive.commutes_with_weights else self.weight_ih.shape[0]
        zeros_BC = full_precision(self.weight_ih.new_zeros(batch_size, channels))
        return DrivenState(self.drive.initial_state(zeros_BC), self.initial_core_state(zeros_BH))

    def drive_input(self, drive: DriveRun, x: Tensor, state: State) -> DrivenInput:
        """Apply a drive that commutes with the weights to the input and, for the bias, to the constant 1."""
        weight_GD: Tensor = self.weight_ih
        if isinstance(self.drive, Identity):
            return DrivenInput(x, weight_GD, self.bias_ih, state)
        if self.bias_ih is not None:
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
            weight_GD = torch.cat([weight_GD, self.bias_ih[:, None]], 1)
        with no_autocast(x):
            d, state = drive(full_precision(x), state)
            return DrivenInput(d.to(weight_GD.dtype), weight_GD, None, state)

    def drive_gates(self, drive: DriveRun, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Apply a drive to a = W x + b_ih, and return v in the dtype of the weights and the next state of the drive.

        W x is computed in full precision: in float16 a value above 65504 would overflow, and inf / inf is NaN.
        """
        with no_autocast(x):
            bias_G = None if self.bias_ih is None else full_precision(self.bias_ih)
            a = F.linear(full_precision(x), full_precision(self.weight_ih), bias_G)
            v, state = drive(a, state)
            return v.to(self.weight_ih.dtype), state

    def pre_activations(self, weight_GH: Tensor, x_BI: Tensor, state: State) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
        if self.drive.commutes_with_weights:
            driven = self.drive_input(self.drive.step, x_BI, state.drive)
            v_BG, drive_state = self.linear(driven.d, driven.weight, driven.bias), driven.state
        else:
            v_BG, drive_state = self.drive_gates(self.drive.step, x_BI, state.drive)
        u_BG = self.linear(state.core.h, weight_GH, self.bias_hh)
        return v_BG, u_BG, (drive_state,)

    def run_library(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        assert self.kernel is not None  # check_engine checks it
        if self.drive.commutes_with_weights:
            driven = self.drive_input(self.drive, x_BTI, state.drive)
        else:
            v_BTG, drive_state = self.drive_gates(self.drive, x_BTI, state.drive)
            identity_GG = torch.eye(v_BTG.shape[2], dtype=v_BTG.dtype, device=v_BTG.device)
            driven = DrivenInput(v_BTG, identity_GG, None, drive_state)
        weights = LibraryWeights(driven.weight, self.recurrent_weight(), driven.bias, self.bias_hh)
        y_BTH, core_state = run_library(self.kernel, driven.d, weights, tuple(state.core))
        return y_BTH, DrivenState(driven.state, type(state.core)(*core_state))

    def run_fused(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        if not self.drive.commutes_with_weights:
            if self.product_dtype() == self.weight_ih.dtype:
                return super().run_fused(x_BTI, state)
            # under autocast only the product with U may be in low precision, so the drive runs first
            v_BTG, drive_state = self.drive_gates(self.drive, x_BTI, state.drive)
            step = partial(self.step_gates, self.recurrent_weight())
            y_BTH, core_state = run_fused(step, v_BTG, state.core, self.product_dtype())
            return y_BTH, DrivenState(drive_state, core_state)
        driven = self.drive_input(self.drive, x_BTI, state.drive)
        step = partial(self.step_driven, driven.weight, driven.bias, self.recurrent_weight())
        y_BTH, core_state = run_fused(step, driven.d, state.core, self.product_dtype())
        return y_BTH, DrivenState(driven.state, core_state)

    def step_driven(
        self, weight_GD: Tensor, bias_G: Tensor | None, weight_GH: Tensor, d_BD: Tensor, core_state: Any
    ) -> tuple[Tensor, Any]:
        """Compute one step of the core on an input to which the drive was applied before."""
        return self.step_gates(weight_GH, self.linear(d_BD, weight_GD, bias_G), core_state)

    def step_gates(self, weight_GH: Tensor, v_BG: Tensor, core_state: Any) -> tuple[Tensor, Any]:
        """Compute one step of the core on the gates that the drive computed before."""
        return self.core_step(v_BG, self.linear(core_state.h, weight_GH, self.bias_hh), core_state)

    def settled(self, a_G: Tensor) -> Tensor:
        return self.drive.settled(a_G)

    def flops(self, T: int, batch: int, *, input_grad: bool) -> Flops:
        D = self.input_size
        if self.drive.commutes_with_weights and not isinstance(self.drive, Identity):
            D += self.bias_ih is not None  # the bias is the weight of the driven 1
            input_grad = input_grad or any(True for _ in self.drive.parameters())  # they precede the weight
        return self.product_flops(T, batch, D, input_grad=input_grad)

    def drive_growth(self) -> float | None:
        return self.drive.growth()

    def gain_notes(self) -> Sequence[str]:
        note = self.drive.gain_note()
        return [*([] if note is None else [note]), *super().gain_notes()]

    def tanh_network(self) -> TanhNetwork | None:
        network = super().tanh_network()
        return None if network is None else network._replace(momentum=self.drive.fixed_momentum())


class IdentityDriven(DrivenCell):
    """A core without a drive: v_t = a_t."""

    def __init__(self, input_size: int, hidden_size: int, **core: Any) -> None:
        super().__init__(input_size, hidden_size, drive=Identity(), **core)


class MomentumDriven(DrivenCell):
    """A core on v_t = momentum v_{t-1} + step_size a_t.

    The state carries the filtered input, and v_t is computed from it with the current W. In truncated
    back-propagation through time, a window after an update of W therefore sees v of the new W. The public
    language-modeling code carries v, made with the old W. The two are the same with momentum 0; with 0.3 the weights
    differ by up to 2e-2 after two steps of SGD. With ``learn: unit`` the state carries v.

    Args:
        momentum: mu in [0, 1). The control to compare with is 0, which leaves the core with W and b_ih scaled by
            step_size.
        step_size: s, above 0. A constant input is amplified by step_size / (1 - momentum).
        learn: ``none`` fixes both. ``scalar`` learns them from these initial values, ``unit`` learns one of each for
            every gate channel (the drive then runs on the gates instead of on the input). A sigmoid keeps a learned
            momentum in (0, 1), a softplus keeps a learned step_size above 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        momentum: float = 0.6,
        step_size: float = 0.6,
        learn: Learn = "none",
        **core: Any,
    ) -> None:
        channels = self.gates * positive_int("hidden_size", hidden_size)
        drive = Momentum(momentum, step_size, learn=learn, channels=channels)
        super().__init__(input_size, hidden_size, drive=drive, **core)


class SRDriven(DrivenCell):
    """A core on v_t = (k-1)/(k+2) v_{t-1} + step_size a_t, k = 1, 2, .., restart_period, 1, 2, ...

    Args:
        step_size: s, above 0.
        restart_period: F, the number of steps after which k returns to 1; at least 1.
        carry_count: Whether the state carries k from one call to the next, so that a sequence may be cut anywhere.
            False sets k to 0 in each call although the state carries v, as the public language-modeling code of
            MomentumRNN does in each window of truncated back-propagation through time.
        learn: ``none`` fixes step_size. ``scalar`` learns it from this initial value, ``unit`` learns one for every
            gate channel (the drive then runs on the gates instead of on the input). A softplus keeps it above 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.6,
        restart_period: int = 40,
        carry_count: bool = True,
        learn: Learn = "none",
        **core: Any,
    ) -> None:
        channels = self.gates * positive_int("hidden_size", hidden_size)
        drive = ScheduledRestart(step_size, restart_period, learn=learn, channels=channels)
        super().__init__(input_size, hidden_size, drive=drive, **core)
        self.carry_count = carry_count

    def start_state(self, x_BTI: Tensor, state: State | None) -> State:
        state = super().start_state(x_BTI, state)
        if not self.carry_count:
            state = state._replace(drive=state.drive._replace(k=torch.zeros_like(state.drive.k)))
        return state


class RMSPropDriven(DrivenCell):
    """A core on v_t = step_size a_t / sqrt(m_t + delta), m_t = beta m_{t-1} + (1-beta) a_t^2.

    Args:
        step_size: s, above 0.
        beta: Decay of the moving average of squares, in [0, 1).
        delta: Constant added to the average, at least 1e-18. A silent input (black pixels) and its gradient are
            amplified by step_size / sqrt(delta). With the published 1e-16 the gradient of the bias can exceed all
            others by far.
        delta_in_root: Whether delta is inside the root; otherwise v_t = step_size a_t / (sqrt(m_t) + delta).
        learn: ``none`` fixes step_size. ``scalar`` learns it from this initial value, ``unit`` learns one for every
            gate channel. A softplus keeps it above 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.6,
        beta: float = 0.9,
        delta: float = 1e-4,
        delta_in_root: bool = True,
        learn: Learn = "none",
        **core: Any,
    ) -> None:
        channels = self.gates * positive_int("hidden_size", hidden_size)
        drive = RMSProp(step_size, beta, delta=delta, delta_in_root=delta_in_root, learn=learn, channels=channels)
        super().__init__(input_size, hidden_size, drive=drive, **core)


class AdamDriven(DrivenCell):
    """A core on v_t = p_t / sqrt(m_t + delta), p_t = momentum p_{t-1} + step_size a_t, m_t as for RMSProp.

    Args:
        momentum: mu in [0, 1); above sqrt(beta) the drive is unstable, and a warning is issued.
        step_size: s, above 0.
        beta: Decay of the moving average of squares, in [0, 1).
        delta: Constant added to the average, at least 1e-18. A silent input (black pixels) and its gradient are
            amplified by step_size / sqrt(delta). With the published 1e-16 the gradient of the bias can exceed all
            others by far.
        delta_in_root: Whether delta is inside the root; otherwise v_t = p_t / (sqrt(m_t) + delta).
        learn: ``none`` fixes both. ``scalar`` learns them from these initial values, ``unit`` learns one of each for
            every gate channel. A sigmoid keeps a learned momentum in (0, sqrt(beta)), a softplus keeps a learned
            step_size above 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        momentum: float = 0.6,
        step_size: float = 0.6,
        beta: float = 0.9,
        delta: float = 1e-4,
        delta_in_root: bool = True,
        learn: Learn = "none",
        **core: Any,
    ) -> None:
        channels = self.gates * positive_int("hidden_size", hidden_size)
        drive = Adam(
            momentum, step_size, beta, delta=delta, delta_in_root=delta_in_root, learn=learn, channels=channels
        )
        super().__init__(input_size, hidden_size, drive=drive, **core)
