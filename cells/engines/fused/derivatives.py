"""The expressions of each stage of a step, and of its derivatives.

torch differentiates a stage itself: ``torch.func.vjp`` is traced, and its graph becomes expressions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cells.engines.fused.expressions import Expression, in_order
from cells.engines.fused.lanes import Lowering, common_width, flat
from cells.engines.fused.schedule import Schedule
from cells.engines.fused.trace import decompositions

# where a leaf of the state needs one of these it is kept for the backward pass, else it is computed again
COSTLY = {"sigmoid", "tanh", "exp", "sqrt", "div", "log", "log1p", "expm1", "sin", "cos", "erf"}


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


def differentiate(schedule: Schedule) -> list[StageExpressions]:
    """Return the expressions of all stages.

    Raises:
        NotFusable: if an operation is not pointwise.
    """
    return [_expressions(schedule, index) for index in range(len(schedule.stages))]


def _expressions(schedule: Schedule, index: int) -> StageExpressions:
    from torch.fx.experimental.proxy_tensor import make_fx

    stage = schedule.stages[index]
    raw = dict(schedule.raw)
    real = [name for name, example in raw.items() if example.is_floating_point()]
    fixed = {name: torch.ones_like(example) for name, example in raw.items() if name not in real}

    def outputs(values: list[Tensor], numbers: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        named = {**fixed, **dict(zip(real, values, strict=True))}
        found = stage.function(*(named[name] for name in raw), numbers)
        return [x for x in found if x.is_floating_point()], [x for x in found if not x.is_floating_point()]

    def joint(
        values: list[Tensor], counts: list[Tensor], numbers: list[Tensor], gradients: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        fixed.update(zip(fixed, counts, strict=True))
        found, back, counted = torch.func.vjp(lambda *values: outputs(list(values), numbers), *values, has_aux=True)
        return found, counted, list(back(gradients))

    with torch.inference_mode(False):
        values = [torch.full_like(raw[name], 0.5) for name in real]
        counts = list(fixed.values())
        numbers = [torch.tensor(0.5, dtype=torch.float64) for _ in schedule.numbers]
        with torch.no_grad():
            results = stage.function(*(torch.full_like(example, 1) for example in raw.values()), numbers)
        seeds = [torch.full_like(result, 0.5) for result in results if result.is_floating_point()]
        traced = make_fx(torch.func.functionalize(joint), decomposition_table=decompositions())
        graph = traced(values, list(counts), numbers, seeds).graph

    last = index == len(schedule.stages) - 1
    names = ["y", *(f"leaf{i}" for i in range(len(schedule.leaves)))] if last else [f"value{v}" for v in stage.values]
    low = Lowering(schedule.rows, common_width(graph, schedule.rows))
    inputs = [low.input(name, raw[name].shape) for name in real]
    inputs += [low.input(name, example.shape, real=False) for name, example in fixed.items()]
    for place in range(len(numbers)):
        inputs.append(low.scalar(low.table.input("numbers", place, per_row=True)))
    seeded = [(name, result) for name, result in zip(names, results, strict=True) if result.is_floating_point()]
    inputs += [low.input(f"d{name}", result.shape) for name, result in seeded]
    found = [flat(array) for array in low.run(graph, inputs)]
    by_name = dict(zip([name for name, _ in seeded], found, strict=False))
    rest = found[len(seeded) :]
    for name, result in zip(names, results, strict=True):
        if not result.is_floating_point():
            by_name[name] = rest.pop(0)
    return StageExpressions(low.width, [by_name[name] for name in names], dict(zip(real, rest, strict=True)))


def is_cheap(blocks: list[Expression]) -> bool:
    """Return whether computing ``blocks`` again costs less than keeping them."""
    return not any(x.op in COSTLY for x in in_order(blocks))
