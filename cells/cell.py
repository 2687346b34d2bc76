"""The contract that every recurrent cell keeps.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cells.engines.choice import Engine, compute
from cells.engines.fused import NotFusable, run_fused
from cells.introspection import Introspection
from cells.state import State, check_state
from cells.validation import positive_int

Step = Callable[[Tensor, State], tuple[Tensor, State]]


class Cell(nn.Module, Introspection, ABC):
    """A recurrence y_t, state_t = step(x_t, state_{t-1}) over sequences, batch first everywhere.

    A plug-in implements :meth:`step` and :meth:`initial_state`. A cell with a faster way to compute a whole sequence
    overrides :meth:`forward`, which must return the same numbers. The first line of the docstring is the equation of
    the cell; ``python -m app cells`` prints it. Importing a concrete subclass registers it.

    The constructor takes ``(input_size, hidden_size, *, own keyword arguments with defaults)``. The own arguments are
    plain data (numbers, strings, booleans, None, or lists and dictionaries of them), because configurations and
    checkpoints store them.

    Args:
        input_size: Number of features of one input step, I.
        hidden_size: Number of features of one output step, H.

    Attributes:
        engine: How a sequence is computed; ``auto`` chooses the fastest engine that can run the cell.
        init_args: The own keyword arguments that the caller gave.
        roles: Role of a parameter, by its name in the class, for optimizers that treat it separately:
            ``{"skew": "orthogonal"}``. See :func:`cells.parameter_roles`.

    Raises:
        ValueError: if a size is not a positive integer.
    """

    input_size: int
    hidden_size: int
    engine: Engine = "auto"
    init_args: dict[str, Any]
    roles: ClassVar[Mapping[str, str]] = {}

    def __new__(cls, *args: Any, **kwargs: Any) -> Cell:
        cell = super().__new__(cls)
        own = {name: value for name, value in kwargs.items() if name not in ("input_size", "hidden_size")}
        object.__setattr__(cell, "init_args", own)  # nn.Module.__setattr__ requires a finished nn.Module.__init__
        return cell

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = positive_int("input_size", input_size)
        self.hidden_size = positive_int("hidden_size", hidden_size)

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first step, for ``batch_size`` rows, on the device of the parameters."""

    @abstractmethod
    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute one step: the output y_BH and the next state."""

    def forward(self, x_BTI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Compute a whole sequence: the outputs y_BTH and the last state.

        Args:
            x_BTI: Inputs of shape (batch, time, input_size), time at least 1.
            state: State to start from; None means :meth:`initial_state`.

        Raises:
            ValueError: if ``x_BTI`` has another shape, no rows or no steps, or if ``state`` does not fit the cell and
                the input.
        """
        return compute(self, x_BTI, self.start_state(x_BTI, state))

    def run_fused(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute a sequence by the engine ``fused``.

        Raises:
            NotFusable: if the step is not made of products with weights and pointwise operations.
        """
        if type(self).loop is not Cell.loop:
            raise NotFusable("the cell overrides loop")
        if torch.is_autocast_enabled(x_BTI.device.type):
            raise NotFusable("autocast is on, and only the step itself knows what it may compute in low precision")
        return run_fused(self.stepper(), x_BTI, state, x_BTI.dtype)

    def run_library(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute a sequence by torch's kernel, for cells whose :attr:`library` can be True."""
        raise NotImplementedError(f"{type(self).__name__} has no kernel of torch")

    @property
    def library(self) -> bool:
        """Whether torch has a kernel that can run the cell with its options."""
        return False

    @property
    def library_is_direct(self) -> bool:
        """Whether the kernel reads the driven input; else it reads the gates, with the identity as its weight."""
        return True

    def loop(self, x_BTI: Tensor, state: State, step: Step | None = None) -> tuple[Tensor, State]:
        """Apply ``step`` (by default that of :meth:`stepper`) to each time step: the definition of the cell."""
        outputs = []
        with parametrize.cached():  # computes a parametrized weight once for the sequence instead of once per step
            step = step or self.stepper()
            for x_BI in x_BTI.unbind(1):  # indexing x_BTI[:, t] would make the backward pass quadratic in T
                y_BH, state = step(x_BI, state)
                outputs.append(y_BH)
        return torch.stack(outputs, 1), state

    def stepper(self) -> Step:
        """Return :meth:`step` for one sequence; an override computes here, once, what all steps share."""
        return self.step

    def start_state(self, x_BTI: Tensor, state: State | None) -> State:
        """Check the input and the state of a sequence, and return the state before its first step.

        Every ``forward`` calls this before it computes anything.

        Raises:
            ValueError: with what was expected and what was given.
        """
        self.check_input(x_BTI)
        initial = self.initial_state(x_BTI.shape[0])
        if state is None:
            return initial
        check_state(f"the state of {type(self).__name__}", state, initial)
        return state

    def check_input(self, x_BTI: Tensor) -> None:
        """Check that ``x_BTI`` is a batch of sequences for this cell.

        Raises:
            ValueError: with the expected shape and the given one.
        """
        if x_BTI.dim() != 3 or x_BTI.shape[2] != self.input_size or 0 in x_BTI.shape:
            raise ValueError(
                f"the input of {type(self).__name__} must have shape (batch, time, {self.input_size}) with at least "
                f"one row and one step, got {tuple(x_BTI.shape)}"
            )

    def after_optimizer_step(self) -> None:
        """Run after each optimizer step, for cells that count them; :func:`cells.follow_optimizer` makes the call."""

    def extra_repr(self) -> str:
        own = "".join(f", {name}={value!r}" for name, value in self.init_args.items())
        return f"{self.input_size}, {self.hidden_size}{own}"
