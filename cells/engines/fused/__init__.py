"""The engine ``fused``: a step, traced by torch, runs over a whole sequence in one compiled loop.

The files, in the order in which data flow:

- ``trace``: the graph of one step, by torch's tracer.
- ``graphs``: reading, building and cutting such graphs.
- ``dependence``: what each value of a step depends on.
- ``sums``: the sums of products with weights, and their stages.
- ``schedule``: the parts of a step, as data.
- ``split``: from a traced step to its schedule.
- ``derivatives``: the derivative of each stage, by torch.
- ``lanes``, ``lowering``: from graphs of tensors to scalar expressions.
- ``expressions``: scalar expressions without repetition.
- ``code``, ``arithmetic``: machine code for loops and memory, and for the operations of expressions.
- ``kernels``, ``matrix_product``: machine code for a pointwise stage, and for products.
- ``kept``: what the forward pass keeps for the backward pass.
- ``loop``, ``forward_loop``, ``backward_loop``: machine code for the loops over time.
- ``sequence``: the functions ``forward`` and ``backward``, made of these.
- ``program``: a step compiled for this processor.
- ``workspace``, ``layout``: memory that is used again, and the places of arrays in it.
- ``threads``: blocks of rows in parallel.
- ``run``: a program as one node of autograd.
- ``torch_program``, ``torch_rewrites``, ``torch_ops``: the same schedule as torch operations, where there is no
  compiled code.
- ``errors``: the exception that says why a step cannot be fused.

Shapes: B batch, T time, I input_size, N features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from cells.engines.fused.errors import NotFusable
from cells.engines.fused.workspace import set_workspace_limit
from cells.engines.precision import no_autocast

if TYPE_CHECKING:
    from cells.engines.fused.trace import StepGraph

__all__ = ["NotFusable", "run_fused", "set_workspace_limit"]

MOST_PROGRAMS = 256

_programs: dict[Any, Any] = {}  # the program of a step, or the reason why there is none


def run_fused(step: Callable[..., Any], x_BTI: Tensor, state: Any, product_dtype: torch.dtype) -> tuple[Tensor, Any]:
    """Compute a sequence with ``step``: y_BTN and the last state.

    Compiled code serves float32 and float64 on the CPU; elsewhere the traced graphs run as torch operations.

    Args:
        step: A method of a module, or a ``functools.partial`` of one, that maps an input x_BI and a state to an output
            and the next state.
        x_BTI: Inputs.
        state: State before the first step.
        product_dtype: Precision of the products, which autocast may have lowered.

    Raises:
        NotFusable: if the step is not made of products with weights and pointwise operations.
    """
    from cells.engines.fused.trace import lift

    lifted = lift(step)
    leaves, structure = tree_flatten(state)
    compiled = x_BTI.device.type == "cpu" and product_dtype == x_BTI.dtype and compiler_fault() is None
    program = _program(lifted, x_BTI, leaves, structure, compiled)
    if compiled:
        from cells.engines.fused.run import run_program

        y_BTN, *last = run_program(program, x_BTI, leaves, lifted.tensors)
    else:
        from cells.engines.fused.torch_ops import run_tensors

        y_BTN, *last = run_tensors(program, x_BTI, leaves, lifted.tensors, product_dtype)
    return y_BTN, tree_unflatten(last, structure)


@functools.cache
def compiler_fault() -> str | None:
    """Return why there is no compiled code on this machine, or None if there is."""
    try:
        from cells.engines.fused.code import compile_text

        compile_text("")
    except Exception as error:  # llvmlite is absent or broken, or does not know the processor
        return f"{type(error).__name__}: {error}"
    return None


def _program(lifted: Any, x_BTI: Tensor, leaves: list[Tensor], structure: TreeSpec, compiled: bool) -> Any:
    """Return the program of a step, made at its first use.

    Raises:
        NotFusable: as :func:`run_fused`.
    """
    key = (
        compiled,
        tuple(lifted.key),
        (x_BTI.shape[2], x_BTI.dtype, x_BTI.device),
        tuple((tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves),
        structure,
    )
    return _remembered(key, lambda: _make_program(lifted, x_BTI, leaves, structure, compiled))


def _remembered(key: Any, make: Callable[[], Any]) -> Any:
    """Return what ``make`` returned at the first call with ``key``, or raise the same reason again."""
    if key not in _programs:
        try:
            found = make()
        except NotFusable as reason:
            found = reason.with_traceback(None)
        except Exception as error:  # a step that this engine does not foresee still runs on the reference
            found = NotFusable(f"step cannot be compiled: {type(error).__name__}: {error}")
        while len(_programs) >= MOST_PROGRAMS:
            _programs.pop(next(iter(_programs)))
        _programs[key] = found
    if isinstance(_programs[key], NotFusable):
        raise NotFusable(str(_programs[key]))
    return _programs[key]


def _make_program(lifted: Any, x_BTI: Tensor, leaves: list[Tensor], structure: TreeSpec, compiled: bool) -> Any:
    """Trace a step. Cells whose graphs are equal, such as one in training and in evaluation, share a program."""
    from cells.engines.fused.graphs import describe
    from cells.engines.fused.trace import trace_step

    real = {tensor.dtype for tensor in (x_BTI, *leaves) if tensor.is_floating_point()}
    if real not in ({torch.float32}, {torch.float64}):
        names = ", ".join(sorted(map(str, real)))
        raise NotFusable(f"input and state must be all float32 or all float64, got {names}")
    if not any(leaf.is_floating_point() for leaf in leaves):
        raise NotFusable("the state has no floating-point tensor, so that there is no recurrence")
    with no_autocast(x_BTI):
        traced = trace_step(lifted, x_BTI[:, 0], leaves, structure)
        key = (compiled, traced.rows, traced.leaves, describe(traced.graph))
        return _remembered(key, lambda: _compile(traced, x_BTI.dtype, compiled))


def _compile(traced: StepGraph, dtype: torch.dtype, compiled: bool) -> Any:
    from cells.engines.fused.derivatives import differentiate
    from cells.engines.fused.split import make_schedule

    schedule = make_schedule(traced)
    stages = differentiate(schedule)  # refuses what is not pointwise
    if compiled:
        from cells.engines.fused.program import Program

        return Program(schedule, stages, dtype)
    from cells.engines.fused.torch_program import TensorProgram

    return TensorProgram(schedule)
