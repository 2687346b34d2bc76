"""What the conformance suite shares: a small cell with its input and state, and the comparison of results.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cells.cell import Cell
from cells.state import State, leaves

Factory = Callable[[int, int], Cell]

B, T, I, H = 3, 7, 4, 6  # noqa: E741  # no two are equal, so that mixed-up dimensions show


def cell_input_state(factory: Factory) -> tuple[Cell, Tensor, State]:
    """Return a cell in float64 and eval mode, an input for it, and a state."""
    cell = factory(I, H).double().eval()  # in train mode a cell may be random
    return cell, torch.randn(B, T, I, dtype=torch.float64), random_state(cell, B)


def random_state(cell: Cell, rows: int) -> State:
    """Return a state that a run has reached, because not every tensor of the right shape is a valid state."""
    with torch.no_grad():
        _, state = cell(torch.randn(rows, 5, cell.input_size, dtype=torch.float64))
    tensors = [leaf.requires_grad_() if leaf.is_floating_point() else leaf for leaf in leaves(state)]
    return unflatten(tensors, state)


def values_and_gradients(cell: Cell, forward: Callable[..., Any], x_BTI: Tensor, state: State) -> list[Tensor]:
    """Return outputs, last state, and the gradients of a fixed function of both with respect to everything."""
    x_BTI = x_BTI.detach().requires_grad_()
    y_BTH, last = forward(x_BTI, state)
    results = [leaf for leaf in [y_BTH, *leaves(last)] if leaf.is_floating_point()]
    sources = [x_BTI, *(leaf for leaf in leaves(state) if leaf.requires_grad), *cell.parameters()]
    loss = torch.stack([leaf.sin().sum() for leaf in results]).sum()
    gradients = torch.autograd.grad(loss, sources, materialize_grads=True)
    return [*(leaf.detach() for leaf in results), *gradients]


def rows_of(state: State, row: int) -> State:
    """Return one row of ``state``, as a batch of one row."""
    return unflatten([leaf[row : row + 1] for leaf in leaves(state)], state)


def unflatten(tensors: Any, like: State) -> State:
    """Return ``tensors`` in the structure of ``like``."""
    return torch.utils._pytree.tree_unflatten(list(tensors), torch.utils._pytree.tree_structure(like))


def assert_same(what: str, found: Any, expected: Any) -> None:
    """Check that two pytrees of tensors have equal shapes, and values that agree to 1e-9."""
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        assert a.shape == b.shape, f"{what} differ in shape: {tuple(a.shape)} and {tuple(b.shape)}"
        difference = (a - b).abs().max().item() if a.numel() else 0.0
        tolerance = 1e-9 * max(1.0, b.abs().max().item() if b.numel() else 0.0)
        assert difference <= tolerance, f"{what} differ by {difference:.2e}, must be at most {tolerance:.0e}"
