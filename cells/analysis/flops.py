"""Floating-point operations of a cell: by formula where it is made of a drive and a core, else counted.

Shapes: B batch, T time, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

import copy

from torch.utils.flop_counter import FlopCounterMode

from cells.cell import Cell
from cells.driven import DrivenCell, Flops
from cells.drives import Identity
from cells.validation import positive_int


def flops(cell: Cell, T: int, batch: int, *, input_grad: bool = False) -> Flops:
    """Operations of the matrix products over a sequence of T steps, each multiplication and each addition as one.

    They are what ``torch.utils.flop_counter`` counts, under any engine. What works element by element (drives, gates)
    is not in it, nor the exponential or Cayley map of an orthogonal weight, whose price does not depend on T.

        forward = 2 B T (D + H) G, and what making the weight U takes (:meth:`DrivenCell.weight_flops`);
        backward = the same for the weights, 2 B (T - 1) H G for h, and 2 B T D G for the input where it is asked for.

    Of any other cell they are counted by torch over its step loop, without computing it.

    Args:
        cell: The cell.
        T: Number of steps.
        batch: Number of rows, B.
        input_grad: Whether a gradient of the input is needed, as it is above another layer.

    Raises:
        ValueError: if T or batch is no positive integer.
    """
    BT = positive_int("batch", batch) * positive_int("T", T)
    if not isinstance(cell, DrivenCell):
        return _counted(cell, T, batch, input_grad)
    G, D = cell.weight_ih.shape
    if cell.drive.linear and not isinstance(cell.drive, Identity):
        D += cell.bias_ih is not None  # the bias is the weight of a driven 1
        input_grad = input_grad or any(True for _ in cell.drive.parameters())  # learned, they stand before the weight
    H = cell.hidden_size
    forward = 2 * BT * (D + H) * G
    backward = forward + 2 * (BT - batch) * H * G + (2 * BT * D * G if input_grad else 0)
    make_weight = cell.weight_flops()
    return Flops(forward + make_weight.forward, backward + make_weight.backward)


def _counted(cell: Cell, T: int, batch: int, input_grad: bool) -> Flops:
    cell = copy.deepcopy(cell).to("meta")
    x_BTI = next(cell.parameters()).new_zeros(batch, T, cell.input_size).requires_grad_(input_grad)
    with FlopCounterMode(display=False) as forward:
        y_BTH, _ = cell.loop(x_BTI, cell.initial_state(batch))
    with FlopCounterMode(display=False) as backward:
        y_BTH.sum().backward()  # type: ignore[no-untyped-call]  # torch's
    return Flops(forward.get_total_flops(), backward.get_total_flops())
