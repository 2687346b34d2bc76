"""What every cell with gate weights shares: the weights of the input, the products, and the step around the core.

Shapes: B batch, T time, I input_size, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cells.cell import Cell, Step
from cells.engines.choice import Engine
from cells.engines.fused import run_fused
from cells.engines.precision import product_dtype
from cells.introspection import Flops, InputGain
from cells.state import State


class Core(Cell):
    """h_t, core state_t = core_step(v_t, u_t, core state_{t-1}) with u_t = U h_{t-1} + b_hh and v_t from x_t.

    A new core implements :meth:`core_step`, :meth:`initial_core_state` and :meth:`recurrent_weight`, and creates and
    initializes its parameters. :class:`cells.driven.DrivenCell` computes v_t by a drive, and
    :class:`cells.nesterov.Nesterov` by Nesterov's extrapolation; a named cell inherits one of the two and a core, in
    this order. The state of the cell is a named tuple whose last field, ``core``, is the state of the core, a named
    tuple whose first field is h.

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of hidden units, H.
        engine: ``reference`` loops over the steps in plain torch, ``library`` runs torch's own kernel, ``scan``
            computes a recurrence that is linear in its state at once, ``fused`` is the engine of
            :mod:`cells.engines.fused`, ``auto`` chooses the fastest one that can run the cell.

    Attributes:
        gates: Number of gate blocks.
        gate_names: Names of the gate blocks in order, for reports; the default is their numbers.
        bounded: Whether h is bounded for any pre-activations.
        kernel: torch's function for the recurrence of the core, if there is one.
        weight_ih: W, of shape (G, I).
        bias_ih: b_ih of shape (G,), or None.
        bias_hh: b_hh of shape (G,), or None.

    Raises:
        ValueError: if an argument is out of range.
    """

    gates: ClassVar[int]
    gate_names: ClassVar[tuple[str, ...]] = ()
    bounded: ClassVar[bool] = True
    kernel: ClassVar[Callable[..., Any] | None] = None
    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init__(self, input_size: int, hidden_size: int, *, engine: Engine = "auto") -> None:
        super().__init__(input_size, hidden_size)
        self.engine = engine
        self.weight_ih = nn.Parameter(torch.empty(self.gates * self.hidden_size, self.input_size))
        self.bias_ih = None
        self.bias_hh = None

    @abstractmethod
    def recurrent_weight(self) -> Tensor:
        """Return U of shape (G, H) in ``v + h @ U.T``, in the dtype of the parameters even under autocast."""

    @abstractmethod
    def initial_core_state(self, zeros_BH: Tensor) -> Any:
        """Return the state of the core before the first step; ``zeros_BH`` has the shape, dtype and device of h."""

    @abstractmethod
    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Compute one step of the core from v and u = U h + b_hh: h_BH and the next state of the core."""

    @abstractmethod
    def pre_activations(self, weight_GH: Tensor, x_BI: Tensor, state: State) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
        """Return v_BG, u_BG, and the fields of the next state before ``core``."""

    def core_scan(self, v_BTG: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Compute all steps at once from v, for cores that are :attr:`scannable`: h_BTH and the last core state."""
        raise NotImplementedError(f"{type(self).__name__} is not linear in its state")

    def recurrent_product(self, weight_GH: Tensor, state: Any) -> Tensor:
        """Return u = U h + b_hh from the state of the core; a core that applies a part of U elsewhere overrides it."""
        return self.linear(state.h, weight_GH, self.bias_hh)

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        """Return how far each gate opens, in [0, 1] of shape (B, H), by name; the default is a core without gates."""
        return {}

    def settled(self, a_G: Tensor) -> Tensor:
        """Return the v_G that the constant a = W x + b_ih leads to."""
        return a_G

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        return self.step_with(self.recurrent_weight(), x_BI, state)

    def step_with(self, weight_GH: Tensor, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute :meth:`step` with U given, which a sequence computes only once."""
        v_BG, u_BG, others = self.pre_activations(weight_GH, x_BI, state)
        h_BH, core_state = self.core_step(v_BG, u_BG, state.core)
        return h_BH, type(state)(*others, core_state)

    def stepper(self) -> Step:
        return partial(self.step_with, self.recurrent_weight())

    def run_fused(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        return run_fused(self.stepper(), x_BTI, state, self.product_dtype())

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x @ weight.T + bias in the dtype of the weight; only this may autocast compute in low precision."""
        return F.linear(x, weight, bias).to(weight.dtype)

    def product_dtype(self) -> torch.dtype:
        """Return the dtype of matrix products: that of the parameters, or that of autocast."""
        return product_dtype(self.weight_ih)

    def weight_flops(self) -> Flops:
        """Return the operations of the matrix products in :meth:`recurrent_weight` and in its backward pass."""
        return Flops(0, 0)

    def product_flops(self, T: int, batch: int, D: int, *, input_grad: bool) -> Flops:
        """Return the operations of T steps with D channels that reach the gate weights.

        forward = 2 B T (D + H) G + the operations of making U
        backward = the same for the weights, 2 B (T - 1) H G for h, 2 B T D G for the input if it needs a gradient
        """
        G, H, make_weight = self.weight_ih.shape[0], self.hidden_size, self.weight_flops()
        forward = 2 * batch * T * (D + H) * G
        backward = forward + 2 * batch * (T - 1) * H * G + (2 * batch * T * D * G if input_grad else 0)
        return Flops(forward + make_weight.forward, backward + make_weight.backward)

    def flops(self, T: int, batch: int, *, input_grad: bool) -> Flops:
        return self.product_flops(T, batch, self.input_size, input_grad=input_grad)

    def gate_openings(self, x_BI: Tensor, state: State) -> dict[str, Tensor]:
        v_BG, u_BG, _ = self.pre_activations(self.recurrent_weight(), x_BI, state)
        return self.open_gates(v_BG, u_BG)

    def recurrent_blocks(self) -> dict[str, Tensor]:
        names = self.gate_names or map(str, range(self.gates))
        return dict(zip(names, torch.split(self.recurrent_weight(), self.hidden_size), strict=True))

    def input_gain(self) -> InputGain:
        zeros_G = self.weight_ih.new_zeros(len(self.weight_ih))
        with torch.no_grad():
            constant = self.settled(zeros_G + 1).mean().item()
        with torch.enable_grad():
            silent_G = zeros_G.requires_grad_()
            silent = torch.autograd.grad(self.settled(silent_G).sum(), silent_G)[0].mean().item()
        return InputGain(constant, silent)
