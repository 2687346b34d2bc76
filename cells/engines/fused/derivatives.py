"""The derivatives of each stage of a step, by torch itself.

``torch.func.vjp`` of a stage is traced. Its graph gives the scalar expressions of the compiled kernels, and runs as it
is where there is no compiled code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from cells.engines.fused.expressions import Expression, in_order
from cells.engines.fused.lanes import Lanes, common_width, flat
from cells.engines.fused.lowering import lower
from cells.engines.fused.schedule import Schedule
from cells.engines.fused.trace import decompositions, trace

# where a leaf of the state needs one of these it is kept for the backward pass, else it is computed again
COSTLY = {"sigmoid", "tanh", "exp", "sqrt", "div", "log", "log1p", "expm1", "sin", "cos", "erf"}


@dataclass(frozen=True)
class Derivative:
    """The graph of a stage together with its derivative.

    Attributes:
        graph: Its arguments are what the stage reads and has a gradient (``real``), then the counts (``counts``), the
            constants of the step, and the gradients of the real outputs; its results are the real outputs, the other
            outputs, and the gradients of ``real``.
        real: Names of the arguments that have gradients, with examples.
        counts: Names of the other arguments, with examples.
        outputs: Names of the outputs of the stage in order, with examples.
    """

    graph: fx.Graph
    real: dict[str, Tensor]
    counts: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @property
    def real_outputs(self) -> dict[str, Tensor]:
        return {name: example for name, example in self.outputs.items() if example.is_floating_point()}


@dataclass(frozen=True)
class StageExpressions:
    """A stage as scalar expressions.

    Attributes:
        width: W, the number of units that its kernels run over.
        outputs: The blocks of each output: of the values of the stage, or of y and the next leaves.
        gradients: The blocks of the gradient of everything that the stage reads, by name; from those of the outputs,
            ``dvalue0``, or ``dy``, ``dleaf0`` and so on.
    """

    width: int
    outputs: list[list[Expression]]
    gradients: dict[str, list[Expression]]


def trace_derivative(schedule: Schedule, index: int, table: dict[Any, Callable[..., Any]] | None = None) -> Derivative:
    """Trace a stage and its derivative.

    Args:
        schedule: The step.
        index: The stage.
        table: Rules by which torch writes operations as others.
    """
    stage = schedule.stages[index]
    raw = dict(schedule.raw)
    real = {name: torch.full_like(example, 0.5) for name, example in raw.items() if example.is_floating_point()}
    counts = {name: torch.ones_like(example) for name, example in raw.items() if name not in real}
    numbers = [torch.tensor(0.5, dtype=torch.float64) for _ in schedule.numbers]

    def joint(
        values: list[Tensor], counted: list[Tensor], numbers: list[Tensor], seeds: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        def run(*values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            named = {**dict(zip(real, values, strict=True)), **dict(zip(counts, counted, strict=True))}
            found = stage.function(*(named[name] for name in raw), numbers)
            return [x for x in found if x.is_floating_point()], [x for x in found if not x.is_floating_point()]

        found, back, others = torch.func.vjp(run, *values, has_aux=True)  # type: ignore[misc]  # three with has_aux
        return found, others, list(back(seeds))

    with torch.inference_mode(False):
        with torch.no_grad():
            results = stage.function(*({**real, **counts}[name] for name in raw), numbers)
        seeds = [torch.full_like(result, 0.5) for result in results if result.is_floating_point()]
        graph = trace(joint, [list(real.values()), list(counts.values()), numbers, seeds], table).graph
    last = index == len(schedule.stages) - 1
    names = ["y", *(f"leaf{i}" for i in range(len(schedule.leaves)))] if last else [f"value{v}" for v in stage.values]
    return Derivative(graph, real, counts, dict(zip(names, results, strict=True)))


def differentiate(schedule: Schedule) -> list[StageExpressions]:
    """Return the expressions of all stages.

    Raises:
        NotFusable: if an operation is not pointwise.
    """
    return [_expressions(schedule, index) for index in range(len(schedule.stages))]


def _expressions(schedule: Schedule, index: int) -> StageExpressions:
    derivative = trace_derivative(schedule, index, decompositions())
    lanes = Lanes(schedule.rows, common_width(derivative.graph, schedule.rows))
    inputs = [lanes.input(name, example.shape) for name, example in derivative.real.items()]
    inputs += [lanes.input(name, example.shape, real=False) for name, example in derivative.counts.items()]
    for place in range(len(schedule.numbers)):
        inputs.append(lanes.scalar(lanes.table.input("numbers", place, per_row=True)))
    inputs += [lanes.input(f"d{name}", example.shape) for name, example in derivative.real_outputs.items()]
    found = iter([flat(array) for array in lower(lanes, derivative.graph, inputs)])
    by_name = {name: next(found) for name in derivative.real_outputs}
    by_name |= {name: next(found) for name in derivative.outputs if name not in by_name}
    gradients = {name: next(found) for name in derivative.real}
    return StageExpressions(lanes.width, [by_name[name] for name in derivative.outputs], gradients)


def is_cheap(blocks: list[Expression]) -> bool:
    """Return whether computing ``blocks`` again costs less than keeping them."""
    return not any(x.op in COSTLY for x in in_order(blocks))
