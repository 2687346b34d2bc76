"""Cells made of a drive in front of a core.

Shapes: B batch, T time, I input_size, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cells.cell import Cell
from cells.drives import Drive, Identity, Momentum
from cells.engines import Engine, choose_engine, full_precision, no_autocast, run_library
from cells.state import State
from cells.validation import one_of


class DrivenState(NamedTuple):
    """State of a driven cell.

    Attributes:
        drive: State of the drive: on the input and the constant 1 where the drive is linear, else on the gates.
        core: State of the core, a named tuple whose first entry is h.
    """

    drive: State
    core: Any


class DrivenCell(Cell):
    """h_t = core(v_t, h_{t-1}) with v_t = drive(W x_t + b_ih); the core adds U h_{t-1} + b_hh.

    A named cell inherits a drive (one of the classes below) and a core (``RNNCore``, ``LSTMCore``, ``GRUCore``), in
    this order. Parameters carry the names, shapes and gate order of torch's own layers: ``weight_ih`` (G, I),
    ``weight_hh`` (G, H), ``bias_ih`` and ``bias_hh`` (G).

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of hidden units, H.
        drive: The drive.
        bias: Whether there are biases.
        init: Initialisation. ``torch``: everything uniform in +-1/sqrt(H), as in torch's own layers. ``published``: W
            orthogonal, U = eye_ of the whole (G, H) matrix (the identity in the first gate's block), biases 0 except
            the LSTM's forget block (1 in both), as in the public code of MomentumRNN (NeurIPS 2020).
        engine: ``reference`` loops over the steps in plain torch, ``library`` runs torch's own kernel, ``auto`` takes
            the fastest that there is for the cell.

    Attributes:
        gates: Number of gate blocks of the core.
        kernel: torch's function for the core, if it has one.

    Raises:
        ValueError: if an argument lies outside what is accepted.
    """

    gates: ClassVar[int]
    kernel: ClassVar[Callable[..., Any] | None] = None

    @abstractmethod
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        drive: Drive,
        bias: bool = True,
        init: Literal["torch", "published"] = "torch",
        engine: Engine = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size)
        G = self.gates * self.hidden_size
        self.drive = drive
        self.init = one_of("init", init, ("torch", "published"))
        self.engine = engine
        self.weight_ih = nn.Parameter(torch.empty(G, self.input_size))
        self.weight_hh = nn.Parameter(torch.empty(G, self.hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(G)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(G)) if bias else None
        self.reset_parameters()
        choose_engine(self)  # refuses an engine that cannot run this cell

    @abstractmethod
    def initial_core_state(self, zeros_BH: Tensor) -> Any:
        """The core's state before the first step; ``zeros_BH`` gives shape, dtype and device of h."""

    @abstractmethod
    def core_step(self, v_BG: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step of the core on the driven input: h_BH and the next state."""

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
        """The weight U of shape (G, H) in ``v + h @ U.T``."""
        return self.weight_hh

    def initial_state(self, batch_size: int) -> DrivenState:
        zeros_BH = self.weight_hh.new_zeros(batch_size, self.hidden_size)
        on_input = self.input_size + (self.bias_ih is not None)
        channels = on_input if self.drive.linear else self.weight_hh.shape[0]
        zeros_BC = full_precision(self.weight_hh.new_zeros(batch_size, channels))
        return DrivenState(self.drive.initial_state(zeros_BC), self.initial_core_state(zeros_BH))

    def step(self, x_BI: Tensor, state: DrivenState) -> tuple[Tensor, DrivenState]:
        u_BD, weight_GD, bias_G, drive_state = self._drive_input(self.drive.step, x_BI, state.drive)
        h_BH, core_state = self.core_step(F.linear(u_BD, weight_GD, bias_G), state.core)
        return h_BH, DrivenState(drive_state, core_state)

    def forward(self, x_BTI: Tensor, state: DrivenState | None = None) -> tuple[Tensor, DrivenState]:
        if choose_engine(self) == "reference":
            return super().forward(x_BTI, state)
        self.check_input(x_BTI)
        if state is None:
            state = self.initial_state(x_BTI.shape[0])
        u_BTD, weight_GD, bias_G, drive_state = self._drive_input(self.drive, x_BTI, state.drive)
        y_BTH, core_state = run_library(self, u_BTD, weight_GD, bias_G, tuple(state.core))
        return y_BTH, DrivenState(drive_state, type(state.core)(*core_state))

    def _drive_input(
        self, drive: Callable[[Tensor, State], tuple[Tensor, State]], x: Tensor, state: State
    ) -> tuple[Tensor, Tensor, Tensor | None, State]:
        """(u, weight, bias, next drive state) with v = weight u + bias, for a step or for a sequence."""
        weight_GD: Tensor = self.weight_ih
        bias_G = self.bias_ih
        if isinstance(self.drive, Identity):
            return x, weight_GD, bias_G, state
        if bias_G is not None:  # the bias is inside the drive: the weight of one more input, which is always 1
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
            weight_GD = torch.cat([weight_GD, bias_G[:, None]], 1)
        with no_autocast(x):
            u, state = drive(full_precision(x), state)
        return u.to(weight_GD.dtype), weight_GD, None, state


class IdentityDriven(DrivenCell):
    """A core on its plain input: v_t = a_t."""

    def __init__(self, input_size: int, hidden_size: int, **core: Any) -> None:
        super().__init__(input_size, hidden_size, drive=Identity(), **core)


class MomentumDriven(DrivenCell):
    """A core on v_t = momentum v_{t-1} + step_size a_t.

    Args:
        momentum: mu in [0, 1). 0 leaves the core with W and b_ih scaled by step_size: the control to run beside it.
        step_size: s, above 0. A constant input is amplified by step_size / (1 - momentum).
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, momentum: float = 0.6, step_size: float = 0.6, **core: Any
    ) -> None:
        super().__init__(input_size, hidden_size, drive=Momentum(momentum, step_size), **core)
