"""The engine ``fused``: a step, traced by torch, runs over a whole sequence in one compiled loop.

Shapes: B batch, T time, I input_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from cells.engines.fused.derivatives import differentiate
from cells.engines.fused.errors import NotFusable
from cells.engines.fused.program import Program
from cells.engines.fused.run import run_program
from cells.engines.fused.schedule import make_schedule
from cells.engines.fused.trace import Lifted, lift, trace_step
from cells.engines.fused.workspace import set_workspace_limit

__all__ = ["NotFusable", "fuse", "run_fused", "set_workspace_limit"]

_programs: dict[Any, Program | NotFusable] = {}


def run_fused(step: Callable[..., Any], x_BTI: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Compute a sequence with ``step``: y_BTN and the last state.

    Args:
        step: A method of a module, or a ``functools.partial`` of one, that maps an input x_BI and a state to an output
            and the next state.
        x_BTI: Inputs.
        state: State before the first step.

    Raises:
        NotFusable: if the step is not made of products with weights and pointwise operations.
    """
    lifted = lift(step)
    leaves, structure = tree_flatten(state)
    program = fuse(lifted, x_BTI, leaves, structure)
    y_BTN, *last = run_program(program, x_BTI, leaves, lifted.tensors)
    return y_BTN, tree_unflatten(last, structure)


def fuse(lifted: Lifted, x_BTI: Tensor, leaves: list[Tensor], structure: Any) -> Program:
    """Return the program of a step, compiled at its first use.

    Raises:
        NotFusable: as :func:`run_fused`.
    """
    key = (
        tuple(lifted.key),
        (x_BTI.shape[2], x_BTI.dtype),
        tuple((tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves),
        structure,
    )
    found = _programs.get(key)
    if found is None:
        try:
            found = _fuse(lifted, x_BTI, leaves, structure)
        except NotFusable as reason:
            found = reason
        _programs[key] = found
    if isinstance(found, NotFusable):
        raise found
    return found


def _fuse(lifted: Lifted, x_BTI: Tensor, leaves: list[Tensor], structure: Any) -> Program:
    kinds = {tensor.dtype for tensor in (x_BTI, *leaves) if tensor.is_floating_point()}
    if kinds not in ({torch.float32}, {torch.float64}):
        raise NotFusable(f"input and state are of {', '.join(sorted(map(str, kinds)))}; one of float32 and float64 is")
    step = trace_step(lifted, x_BTI[:, 0], leaves, structure)
    schedule = make_schedule(step)
    return Program(schedule, differentiate(schedule), x_BTI.dtype)
