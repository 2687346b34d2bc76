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

from cells.state import State
from cells.validation import positive_int

Step = Callable[[Tensor, State], tuple[Tensor, State]]


class Cell(nn.Module, ABC):
    """A recurrence y_t, state_t = step(x_t, state_{t-1}) over sequences, batch first everywhere.

    A plug-in writes :meth:`step` and :meth:`initial_state`; a cell that can treat a whole sequence faster overrides
    :meth:`forward`, which must give the same numbers. The first line of the docstring is the cell's equation: it is
    what ``python -m app cells`` shows. Every concrete subclass is registered by being imported.

    The constructor takes ``(input_size, hidden_size, *, own keyword arguments with defaults)``. The own arguments are
    plain data (numbers, strings, booleans, None, or lists and dictionaries of them), because they are written into
    configurations and checkpoints.

    Args:
        input_size: Number of features of one input step, I.
        hidden_size: Number of features of one output step, H.

    Attributes:
        init_args: The own keyword arguments as they were given.
        roles: What a parameter is, by its name in the class, where optimisers should treat it apart from the others:
            ``{"skew": "orthogonal"}``. See :func:`cells.parameter_roles`.

    Raises:
        ValueError: if a size is not a positive integer.
    """

    input_size: int
    hidden_size: int
    init_args: dict[str, Any]
    roles: ClassVar[Mapping[str, str]] = {}

    def __new__(cls, *args: Any, **kwargs: Any) -> Cell:
        cell = super().__new__(cls)
        own = {name: value for name, value in kwargs.items() if name not in ("input_size", "hidden_size")}
        object.__setattr__(cell, "init_args", own)  # nn.Module.__setattr__ needs a finished nn.Module.__init__
        return cell

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = positive_int("input_size", input_size)
        self.hidden_size = positive_int("hidden_size", hidden_size)

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first step, for ``batch_size`` rows, on the device of the parameters."""

    @abstractmethod
    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: the output y_BH and the next state."""

    def forward(self, x_BTI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """A whole sequence: the outputs y_BTH and the last state.

        Args:
            x_BTI: Inputs of shape (batch, time, input_size), time at least 1.
            state: State to start from; None means :meth:`initial_state`.

        Raises:
            ValueError: if ``x_BTI`` has another shape, or no rows or no steps.
        """
        self.check_input(x_BTI)
        return self.loop(x_BTI, self.initial_state(x_BTI.shape[0]) if state is None else state)

    def loop(self, x_BTI: Tensor, state: State, step: Step | None = None) -> tuple[Tensor, State]:
        """``step`` (:meth:`stepper`'s by default) over time: what every cell is, whatever faster way forward takes."""
        outputs = []
        with parametrize.cached():  # a parametrised weight is computed once for the sequence, not once a step
            step = step or self.stepper()
            for x_BI in x_BTI.unbind(1):  # indexing x_BTI[:, t] would make the backward pass quadratic in T
                y_BH, state = step(x_BI, state)
                outputs.append(y_BH)
        return torch.stack(outputs, 1), state

    def stepper(self) -> Step:
        """:meth:`step` for one sequence: what is the same at every step may be computed here, once."""
        return self.step

    def after_optimizer_step(self) -> None:
        """Called once after each optimiser step, for cells that count them; :func:`cells.follow_optimizer` does it."""

    def check_input(self, x_BTI: Tensor) -> None:
        """Refuse an input that is no batch of sequences of this cell.

        Raises:
            ValueError: with the shape found and the shape expected.
        """
        if x_BTI.dim() != 3 or x_BTI.shape[2] != self.input_size or 0 in x_BTI.shape:
            raise ValueError(
                f"{type(self).__name__} got an input of shape {tuple(x_BTI.shape)}; "
                f"(batch, time, {self.input_size}) with at least one row and one step is expected"
            )

    def extra_repr(self) -> str:
        own = "".join(f", {name}={value!r}" for name, value in self.init_args.items())
        return f"{self.input_size}, {self.hidden_size}{own}"
