"""The part of the conformance suite that transforms a cell: second derivatives, torch.func and torch.compile.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cells.check_tools import Factory, assert_same, cell_input_state, values_and_gradients
from cells.state import leaves

COMPILED_STEPS = 3  # a compiler unrolls the step loop


def check_second_derivatives(factory: Factory) -> None:
    """Second derivatives of forward equal those of the step loop (float64), or computing them raises an error."""
    cell, x_BTI, state = cell_input_state(factory)
    sources = [x_BTI.requires_grad_(), *(leaf for leaf in leaves(state) if leaf.requires_grad), *cell.parameters()]
    results = []
    for forward in (cell, cell.loop):
        y_BTH, _ = forward(x_BTI, state)
        try:
            (gradient_BTI,) = torch.autograd.grad(y_BTH.sin().sum(), x_BTI, create_graph=True)
            results.append(torch.autograd.grad(gradient_BTI.sin().sum(), sources, materialize_grads=True))
        except RuntimeError:
            return  # an error says that this cell, or this engine of it, has no second derivatives
    assert_same("second derivatives of forward and of the step loop", *results)


def check_function_transforms(factory: Factory) -> None:
    """Under torch.func, forward equals the step loop in vmap, jvp and a Hessian-vector product, or raises an error."""
    cell, x_BTI, state = cell_input_state(factory)
    with torch.no_grad():
        state = torch.utils._pytree.tree_map(torch.clone, state)
    direction_BTI = torch.randn_like(x_BTI)

    def transformed(forward: Callable[..., Any], transform: str) -> Any:
        def loss(x_BTI: Tensor) -> Tensor:
            results = [leaf.sin().sum() for leaf in leaves(forward(x_BTI, state)) if leaf.is_floating_point()]
            return torch.stack(results).sum()

        if transform == "vmap":
            return torch.vmap(loss)(torch.stack([x_BTI, direction_BTI]))
        function = loss if transform == "jvp" else torch.func.grad(loss)
        return torch.func.jvp(function, (x_BTI,), (direction_BTI,))

    for transform in ("vmap", "jvp", "Hessian-vector product"):
        try:
            found = transformed(cell, transform)
        except Exception:  # torch has no one exception for what a transform does not support
            continue
        assert_same(f"{transform} of forward and of the step loop", found, transformed(cell.loop, transform))


def check_compiled(factory: Factory, backend: str) -> None:
    """torch.compile gives the outputs, the last state and the gradients of the step loop."""
    cell, x_BTI, state = cell_input_state(factory)
    torch._dynamo.reset()  # at its limit of recompilations, torch.compile would run the cell as it is
    found = values_and_gradients(cell, torch.compile(cell, backend=backend), x_BTI[:, :COMPILED_STEPS], state)
    expected = values_and_gradients(cell, cell.loop, x_BTI[:, :COMPILED_STEPS], state)
    assert_same(f"a cell compiled by {backend} and the step loop", found, expected)
