"""Floating-point operations of a cell.

Shapes: B batch, T time, I input_size.
"""

from __future__ import annotations

import copy

from torch.utils.flop_counter import FlopCounterMode

from cells.cell import Cell
from cells.introspection import Flops
from cells.validation import positive_int


def flops(cell: Cell, T: int, batch: int, *, input_grad: bool = False) -> Flops:
    """Return the operations of the matrix products over a sequence of T steps; multiplications and additions count 1.

    They are the operations that ``torch.utils.flop_counter`` counts, under any engine. Elementwise operations (drives,
    gates) are not included, nor is the exponential or Cayley map of an orthogonal weight, which does not depend on T.
    The cell gives them by formula (:meth:`cells.introspection.Introspection.flops`), or torch counts them in the step
    loop without computing it.

    Args:
        cell: The cell.
        T: Number of steps.
        batch: Number of rows, B.
        input_grad: Whether the input needs a gradient, as above another layer.

    Raises:
        ValueError: if T or batch is not a positive integer.
    """
    known = cell.flops(positive_int("T", T), positive_int("batch", batch), input_grad=input_grad)
    return _counted(cell, T, batch, input_grad) if known is None else known


def _counted(cell: Cell, T: int, batch: int, input_grad: bool) -> Flops:
    cell = copy.deepcopy(cell).to("meta")
    x_BTI = next(cell.parameters()).new_zeros(batch, T, cell.input_size).requires_grad_(input_grad)
    with FlopCounterMode(display=False) as forward:
        y_BTH, _ = cell.loop(x_BTI, cell.initial_state(batch))
    with FlopCounterMode(display=False) as backward:
        y_BTH.sum().backward()  # type: ignore[no-untyped-call]  # torch's
    return Flops(forward.get_total_flops(), backward.get_total_flops())
