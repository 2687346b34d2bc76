"""Floating-point operations of a cell, by formula.

Shapes: B batch, T time, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

from typing import NamedTuple

from cells.cell import Cell
from cells.driven import DrivenCell
from cells.drives import Identity
from cells.dtriv import OrthogonalCore
from cells.validation import positive_int


class Flops(NamedTuple):
    """Floating-point operations of a forward and of a backward pass."""

    forward: int
    backward: int


def flops(cell: Cell, T: int, batch: int, *, input_grad: bool = False) -> Flops:
    """Operations of the matrix products over a sequence of T steps, each multiplication and each addition as one.

    They are what ``torch.utils.flop_counter`` counts, under any engine. What works element by element (drives, gates)
    is not in it, nor the exponential or Cayley map of an orthogonal weight, whose price does not depend on T.

        forward = 2 B T (D + H) G, and 2 H^3 for the product of an orthogonal weight with its base;
        backward = the same for the weights (2 H^3 more for the Cayley map), 2 B (T - 1) H G for h, and 2 B T D G for
        the input where it is asked for.

    Args:
        cell: The cell.
        T: Number of steps.
        batch: Number of rows, B.
        input_grad: Whether a gradient of the input is needed, as it is above another layer.

    Raises:
        ValueError: if the cell is not made of a drive and a core, or T or batch is no positive integer.
    """
    if not isinstance(cell, DrivenCell):
        raise ValueError(
            f"the operations of {type(cell).__name__} are not known; a subclass of cells.DrivenCell is expected"
        )
    BT = positive_int("batch", batch) * positive_int("T", T)
    G, D = cell.weight_ih.shape
    if cell.drive.linear and not isinstance(cell.drive, Identity):
        D += cell.bias_ih is not None  # the bias is the weight of a driven 1
        input_grad = input_grad or any(True for _ in cell.drive.parameters())  # learned, they stand before the weight
    H = cell.hidden_size
    forward = 2 * BT * (D + H) * G
    backward = forward + 2 * (BT - batch) * H * G + (2 * BT * D * G if input_grad else 0)
    if isinstance(cell, OrthogonalCore):
        forward += 2 * H**3
        backward += 2 * H**3 * (2 if cell.trivialization == "cayley" else 1)
    return Flops(forward, backward)
