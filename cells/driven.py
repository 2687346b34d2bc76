"""Cells made of a drive in front of a core.

Shapes: B batch, T time, I input_size, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cells.cell import Cell, Step
from cells.drives import Adam, Drive, Identity, Momentum, RMSProp, ScheduledRestart
from cells.drives.coefficients import Learn
from cells.engines.bptt import Recurrence, Unrolled, chunk_steps, gate_product
from cells.engines.choice import Engine, choose_engine
from cells.engines.library import run_library
from cells.engines.precision import full_precision, no_autocast
from cells.state import State
from cells.validation import one_of, positive_int


class DrivenState(NamedTuple):
    """State of a driven cell.

    Attributes:
        drive: State of the drive: on the input and the constant 1 where the drive is linear, else on the gates.
        core: State of the core, a named tuple whose first entry is h.
    """

    drive: State
    core: Any


class Flops(NamedTuple):
    """Floating-point operations of a forward and of a backward pass."""

    forward: int
    backward: int


class DrivenCell(Cell):
    """h_t = core(v_t, u_t) with v_t = drive(W x_t + b_ih) and u_t = U h_{t-1} + b_hh.

    A named cell inherits a drive (one of the classes below) and a core (``RNNCore``, ``LSTMCore``, ``GRUCore``,
    ``DTRIVCore``), in this order.

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of hidden units, H.
        drive: The drive.
        engine: ``reference`` loops over the steps in plain torch, ``library`` runs torch's own kernel, ``bptt`` is
            back-propagation through time by hand, ``auto`` takes the fastest that there is for the cell.

    Attributes:
        gates: Number of gate blocks of the core.
        gate_names: Their names, in order, for reports.
        kernel: torch's function for the core, if it has one.
        recurrence: The core for the engine ``bptt``, if there is one.
        weight_ih: W, of shape (G, I).
        bias_ih: b_ih of shape (G,), or None.
        bias_hh: b_hh of shape (G,), or None.

    Raises:
        ValueError: if an argument lies outside what is accepted.
    """

    gates: ClassVar[int]
    gate_names: ClassVar[tuple[str, ...]] = ()
    kernel: ClassVar[Callable[..., Any] | None] = None
    recurrence: ClassVar[type[Recurrence] | None] = None
    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    @abstractmethod
    def __init__(self, input_size: int, hidden_size: int, *, drive: Drive, engine: Engine = "auto") -> None:
        super().__init__(input_size, hidden_size)
        self.drive = drive
        self.engine = engine
        self.weight_ih = nn.Parameter(torch.empty(self.gates * self.hidden_size, self.input_size))
        self.bias_ih = None
        self.bias_hh = None
        choose_engine(self)  # refuses an engine that cannot run this cell

    @property
    def library(self) -> bool:
        """Whether torch's kernel can run the cell: there is one, and the drive is linear."""
        return self.kernel is not None and self.drive.linear

    @abstractmethod
    def recurrent_weight(self) -> Tensor:
        """The weight U of shape (G, H) in ``v + h @ U.T``, in the dtype of the parameters also under autocast."""

    def weight_flops(self) -> Flops:
        """Operations of the matrix products in :meth:`recurrent_weight` and in its backward pass."""
        return Flops(0, 0)

    @abstractmethod
    def initial_core_state(self, zeros_BH: Tensor) -> Any:
        """The core's state before the first step; ``zeros_BH`` gives shape, dtype and device of h."""

    @abstractmethod
    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step of the core on the driven input v and u = U h + b_hh: h_BH and the next state."""

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        """How far each gate is open, in [0, 1] of shape (B, H), by name; nothing for a core without gates."""
        return {}

    def settled(self, a_G: Tensor) -> Tensor:
        """What reaches the gates, U h aside, after an input that was always ``a_G`` = W x + b_ih."""
        return self.drive.settled(a_G)

    def initial_state(self, batch_size: int) -> State:
        zeros_BH = self.weight_ih.new_zeros(batch_size, self.hidden_size)
        on_input = self.input_size + (self.bias_ih is not None)
        channels = on_input if self.drive.linear else self.weight_ih.shape[0]
        zeros_BC = full_precision(self.weight_ih.new_zeros(batch_size, channels))
        return DrivenState(self.drive.initial_state(zeros_BC), self.initial_core_state(zeros_BH))

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        return self.step_with(self.recurrent_weight(), x_BI, state)

    def step_with(self, weight_GH: Tensor, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        """:meth:`step` with a recurrent weight that was computed before, once for a whole sequence."""
        d_BD, weight_GD, bias_G, drive_state = self._drive_input(self.drive.step, x_BI, state.drive)
        v_BG = d_BD if weight_GD is None else self.linear(d_BD, weight_GD, bias_G)
        u_BG = self.linear(state.core.h, weight_GH, self.bias_hh)
        h_BH, core_state = self.core_step(v_BG, u_BG, state.core)
        return h_BH, DrivenState(drive_state, core_state)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x @ weight.T + bias, all that autocast may compute in low precision; the result has the weight's dtype."""
        return F.linear(x, weight, bias).to(weight.dtype)

    def stepper(self) -> Step:
        return partial(self.step_with, self.recurrent_weight())

    def forward(self, x_BTI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        engine = choose_engine(self)
        if engine == "reference":
            return super().forward(x_BTI, state)
        self.check_input(x_BTI)
        if state is None:
            state = self.initial_state(x_BTI.shape[0])
        if engine == "bptt":
            return self.run_bptt(x_BTI, state)
        d_BTD, weight_GD, bias_G, drive_state = self._drive_input(self.drive, x_BTI, state.drive)
        assert weight_GD is not None  # choose_engine gives the library linear drives only
        y_BTH, core_state = run_library(self, d_BTD, weight_GD, bias_G, tuple(state.core))
        return y_BTH, DrivenState(drive_state, type(state.core)(*core_state))

    def own_parameters(self) -> tuple[Tensor, ...]:
        """The parameters of the core's :attr:`recurrence`, beside U and b_hh."""
        return ()

    def unrolled(self, state: State) -> Unrolled:
        """The core's part of the engine ``bptt``, starting from the core's ``state``."""
        assert self.recurrence is not None  # choose_engine saw to it
        weight_GH = self.recurrent_weight()
        return Unrolled(self.recurrence, weight_GH.to(self.product_dtype()), tuple(state), self.own_parameters())

    def product_dtype(self) -> torch.dtype:
        """What matrix products are computed in: the dtype of the parameters, or that of autocast."""
        device = self.weight_ih.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight_ih.dtype

    def run_bptt(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        """The sequence by the engine ``bptt``."""
        unrolled = self.unrolled(state.core)
        low, dtype = self.product_dtype(), self.weight_ih.dtype
        bias_G1 = None if self.bias_hh is None else self.bias_hh[:, None]
        drive_state = state.drive
        steps = chunk_steps(len(x_BTI), len(self.weight_ih))
        with no_autocast(x_BTI):
            if self.drive.linear:
                d_BTD, weight_GD, bias_G, drive_state = self._drive_input(self.drive, x_BTI, drive_state)
                assert weight_GD is not None
                weight_GD = weight_GD.to(low)
                bias_G = None if bias_G is None else bias_G.to(low)
                for d_BKD in torch.split(d_BTD, steps, 1):
                    unrolled.go_on(gate_product(d_BKD.to(low), weight_GD, bias_G).to(dtype), bias_G1)
            else:
                weight_GD = full_precision(self.weight_ih)
                bias_G = None if self.bias_ih is None else full_precision(self.bias_ih)
                for x_BKI in torch.split(x_BTI, steps, 1):
                    a_KGB = gate_product(full_precision(x_BKI), weight_GD, bias_G)
                    v_BKG, drive_state = self.drive(a_KGB.permute(2, 0, 1), drive_state)
                    unrolled.go_on(v_BKG.permute(1, 2, 0).to(dtype).contiguous(), bias_G1)
            y_BTH, core_state = unrolled.result()
        return y_BTH, state._replace(drive=drive_state, core=type(state.core)(*core_state))

    def _drive_input(
        self, drive: Callable[[Tensor, State], tuple[Tensor, State]], x: Tensor, state: State
    ) -> tuple[Tensor, Tensor | None, Tensor | None, State]:
        """(d, weight, bias, next drive state), for a step or for a sequence.

        v = weight d + bias where the drive is linear and was applied to the input; v = d, and the weight is None,
        where it was applied to the gates.
        """
        weight_GD: Tensor = self.weight_ih
        bias_G: Tensor | None = self.bias_ih
        if isinstance(self.drive, Identity):
            return x, weight_GD, bias_G, state
        if self.drive.linear and bias_G is not None:  # the bias is inside the drive: a weight of an input that is 1
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
            weight_GD = torch.cat([weight_GD, bias_G[:, None]], 1)
        with no_autocast(x):
            if self.drive.linear:
                d, state = drive(full_precision(x), state)
                return d.to(weight_GD.dtype), weight_GD, None, state
            # not in low precision: a value above 65504 would overflow in float16, and inf / inf is no number
            a = F.linear(
                full_precision(x), full_precision(weight_GD), None if bias_G is None else full_precision(bias_G)
            )
            v, state = drive(a, state)
            return v.to(weight_GD.dtype), None, None, state


class TorchCore(DrivenCell):
    """A core with the parameters of torch's own layers.

    Names, shapes and gate order are theirs: ``weight_ih`` (G, I), ``weight_hh`` (G, H), ``bias_ih``, ``bias_hh`` (G,).

    Args:
        bias: Whether there are biases.
        init: Initialisation. ``torch``: everything uniform in +-1/sqrt(H), as in torch's own layers. ``published``: W
            orthogonal, U = eye_ of the whole (G, H) matrix (the identity in the first gate's block), biases 0 except
            the LSTM's forget block (1 in both), as in the public code of MomentumRNN (NeurIPS 2020).
    """

    @abstractmethod
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        drive: Drive,
        bias: bool = True,
        init: Literal["torch", "published"] = "torch",
        **driven: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, drive=drive, **driven)
        G = self.weight_ih.shape[0]
        self.init = one_of("init", init, ("torch", "published"))
        self.weight_hh = nn.Parameter(torch.empty(G, self.hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(G)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(G)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as ``init`` says."""
        if self.init == "torch":
            bound = self.hidden_size**-0.5
            for parameter in self.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.orthogonal_(self.weight_ih)
            nn.init.eye_(self.weight_hh)
            for bias in (self.bias_ih, self.bias_hh):
                if bias is not None:
                    nn.init.zeros_(bias)

    def recurrent_weight(self) -> Tensor:
        return self.weight_hh


class IdentityDriven(DrivenCell):
    """A core on its plain input: v_t = a_t."""

    def __init__(self, input_size: int, hidden_size: int, **core: Any) -> None:
        super().__init__(input_size, hidden_size, drive=Identity(), **core)


class MomentumDriven(DrivenCell):
    """A core on v_t = momentum v_{t-1} + step_size a_t.

    Args:
        momentum: mu in [0, 1). 0 leaves the core with W and b_ih scaled by step_size: the control to run beside it.
        step_size: s, above 0. A constant input is amplified by step_size / (1 - momentum).
        learn: ``none`` keeps both as given, ``scalar`` learns them from there, ``unit`` learns one of each for every
            gate channel (the drive then runs on the gates instead of on the input). Learned, momentum stays in (0, 1)
            as a sigmoid and step_size above 0 as a softplus.
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
        carry_count: Whether k goes on with the state from one call to the next, so that a sequence may be cut
            anywhere. False starts k anew with each call although v goes on, as the public language-modelling code of
            MomentumRNN does in each window of truncated back-propagation.
        learn: ``none`` keeps step_size as given, ``scalar`` learns it from there, as a softplus, ``unit`` learns one
            for every gate channel (the drive then runs on the gates instead of on the input).
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

    def forward(self, x_BTI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is not None and not self.carry_count:
            state = state._replace(drive=state.drive._replace(k=torch.zeros_like(state.drive.k)))
        return super().forward(x_BTI, state)


class RMSPropDriven(DrivenCell):
    """A core on v_t = step_size a_t / sqrt(m_t + delta), m_t = beta m_{t-1} + (1-beta) a_t^2.

    Args:
        step_size: s, above 0.
        beta: Decay of the average of squares, in [0, 1).
        delta: What is added to the average, at least 1e-18. A silent input (black pixels) is amplified by
            step_size / sqrt(delta), and the gradient of the bias with it: 1e-16, as published, can drown all else.
        delta_in_root: Whether delta stands inside the root; otherwise v_t = step_size a_t / (sqrt(m_t) + delta).
        learn: ``none`` keeps step_size as given, ``scalar`` learns it from there, as a softplus, ``unit`` learns one
            for every gate channel.
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
        momentum: mu in [0, 1); above sqrt(beta) the drive is unstable, which a warning says.
        step_size: s, above 0.
        beta: Decay of the average of squares, in [0, 1).
        delta: What is added to the average, at least 1e-18. A silent input (black pixels) is amplified by
            step_size / sqrt(delta), and the gradient of the bias with it: 1e-16, as published, can drown all else.
        delta_in_root: Whether delta stands inside the root; otherwise v_t = p_t / (sqrt(m_t) + delta).
        learn: ``none`` keeps momentum and step_size as given, ``scalar`` learns them from there, ``unit`` learns one
            of each for every gate channel. Learned, momentum stays in (0, sqrt(beta)) as a sigmoid and step_size
            above 0 as a softplus.
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
