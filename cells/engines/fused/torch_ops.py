"""The same schedule as torch operations, for devices and precisions that have no compiled code.

A chunk of steps is one node of autograd. In its backward pass everything that does not depend on the gradients is
computed for all steps of the chunk at once; only the rest, and the products with the state, runs step by step.

Shapes: B batch, T time, K steps of a chunk, N features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from cells.engines.fused.errors import SECOND_DERIVATIVE
from cells.engines.fused.schedule import Accumulator, Schedule
from cells.engines.fused.torch_program import TensorProgram
from cells.engines.precision import no_autocast

CHUNK = {"cpu": 2**19, "cuda": 2**25}  # numbers in the accumulators of a chunk


def run_tensors(
    program: TensorProgram, x_BTI: Tensor, leaves: Sequence[Tensor], tensors: Sequence[Tensor], low: torch.dtype
) -> list[Tensor]:
    """Compute a sequence: y_BTN and the last leaves.

    The products are computed in the precision ``low``, everything else in that of the state.
    """
    schedule = program.schedule
    B, T, _ = x_BTI.shape
    device = x_BTI.device.type
    dtype = next(leaf.dtype for leaf in leaves if leaf.is_floating_point())
    with no_autocast(x_BTI):
        results = schedule.prologue(x_BTI.reshape(B * T, -1), *tensors)
        sequences = [
            result.reshape(B, T, -1).transpose(0, 1)
            for result, kind in zip(results, schedule.results, strict=True)
            if kind == "sequence"
        ]
        numbers = {f"number{i}": torch.tensor(number, dtype=torch.float64) for i, number in enumerate(schedule.numbers)}
        parameters = [results[place][None] for place, _ in schedule.parameters]
        parameters = [
            parameter.view(1, *example.shape[1:])
            for parameter, (_, example) in zip(parameters, schedule.parameters, strict=True)
        ]
        widest = max((a.width for a in schedule.accumulators), default=1)
        steps = max(1, CHUNK.get(device, CHUNK["cuda"]) // (B * widest))
        matrices = [
            results[product.matrix].to(low) for accumulator in schedule.accumulators for product in accumulator.by_step
        ]
        outputs = []
        state = list(leaves)
        for start in range(0, T, steps):
            parts = [sequence[start : start + steps] for sequence in sequences]
            sums = [_over_time(accumulator, results, parts, low, dtype) for accumulator in schedule.accumulators]
            read = [parts[q].contiguous() for q in schedule.read]
            K = min(steps, T - start)
            y_KBN, *state = _Chunk.apply(  # type: ignore[no-untyped-call]  # torch's Function is untyped
                program, K, numbers, *matrices, *parameters, *sums, *read, *state
            )
            outputs.append(y_KBN)
        y_TBN = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return [y_TBN.transpose(0, 1).clone(memory_format=torch.contiguous_format), *state]


def _over_time(
    accumulator: Accumulator, results: Sequence[Tensor], parts: Sequence[Tensor], low: torch.dtype, dtype: torch.dtype
) -> Tensor:
    """Return what an accumulator gets before the loop: its products with sequences for a chunk, and its bias."""
    total: Tensor | None = None
    for place, product in enumerate(accumulator.by_time):
        matrix, part = results[product.matrix].to(low), parts[product.operand.index].to(low)
        if accumulator.bias_row and place == 0:
            K, B, N = part.shape
            term = torch.addmm(matrix[-1], part.reshape(K * B, N), matrix[:-1]).view(K, B, -1).to(dtype)
        else:
            term = (part @ matrix).to(dtype)
        total = term if total is None else total + term
    if total is None:
        total = results[0].new_zeros(1, 1, accumulator.width, dtype=dtype)
        if accumulator.bias is not None:
            total = total + results[accumulator.bias].to(dtype)
    return total


@dataclass
class _Arguments:
    """The tensors of a chunk by kind, in the order of the arguments of :class:`_Chunk`."""

    matrices: list[Tensor]
    parameters: list[Tensor]
    sums: list[Tensor]
    read: list[Tensor]
    leaves: list[Tensor]

    @classmethod
    def of(cls, schedule: Schedule, tensors: Sequence[Tensor]) -> _Arguments:
        remaining = iter(tensors)
        counts = (
            sum(len(accumulator.by_step) for accumulator in schedule.accumulators),
            len(schedule.parameters),
            len(schedule.accumulators),
            len(schedule.read),
            len(schedule.leaves),
        )
        return cls(*([next(remaining) for _ in range(count)] for count in counts))


class _Chunk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, program: TensorProgram, K: int, numbers: dict[str, Tensor], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        schedule = program.schedule
        given = _Arguments.of(schedule, tensors)
        products = _products(program, given.matrices)
        like = next(leaf for leaf in given.leaves if leaf.is_floating_point())
        B = len(like)

        def room(example: Tensor, steps: int = K) -> Tensor:
            return like.new_empty(steps, B, *example.shape[1:], dtype=example.dtype)

        arrays = {f"accumulator{i}": _for_each_step(total, K, B) for i, total in enumerate(given.sums)}
        arrays |= {f"sequence{q}": part for q, part in zip(schedule.read, given.read, strict=True)}
        by_step = {name: array.unbind(0) for name, array in arrays.items()}
        named = {**numbers, **{f"parameter{i}": parameter for i, parameter in enumerate(given.parameters)}}
        named |= {f"leaf{i}": leaf for i, leaf in enumerate(given.leaves)}
        after: dict[str, Tensor] = {}  # the leaves after each step, and what else the stages compute
        for i, leaf in enumerate(given.leaves):
            states = room(leaf, K + 1)
            states[0] = leaf
            arrays[f"leaf{i}"], after[f"leaf{i}"] = states[:-1], states[1:]
        others = {name: x for stage in program.stages for name, x in stage.written.items() if name not in after}
        after |= {name: room(example) for name, example in others.items()}
        arrays |= {name: after[name] for name in others} | {f"next_{name}": array for name, array in after.items()}
        kept = [[room(example) for example in stage.kept] for stage in program.stages]
        targets = [
            _steps([*(after[name] for name in stage.written), *own], K)
            for stage, own in zip(program.stages, kept, strict=True)
        ]
        for t in range(K):
            named.update((name, steps[t]) for name, steps in by_step.items())
            for place, stage in enumerate(program.stages):
                for total, operand, matrix in products[place]:
                    _add_product_(named[total], named[operand], matrix)
                found = stage.forward(*[named[name] for name in stage.arguments], *targets[place][t])
                named.update(zip(stage.outputs, found, strict=False))
        last = [named[f"leaf{i}"].clone() for i in range(len(given.leaves))]
        stacks = [arrays[name] for name in program.kept]
        ctx.save_for_backward(
            *given.matrices, *given.parameters, *given.read, *stacks, *(array for own in kept for array in own)
        )
        ctx.program, ctx.numbers, ctx.K = program, numbers, K
        ctx.constant = [total.shape[:2] != (K, B) for total in given.sums]
        ctx.mark_non_differentiable(*(leaf for leaf in last if not leaf.is_floating_point()))
        return after[program.stages[-1].same or "y"], *last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        program: TensorProgram = ctx.program
        schedule, K = program.schedule, ctx.K
        saved = iter(ctx.saved_tensors)
        matrices = [next(saved) for accumulator in schedule.accumulators for _ in accumulator.by_step]
        parameters = [next(saved) for _ in schedule.parameters]
        read = [next(saved) for _ in schedule.read]
        B = grads[0].shape[1]
        named = {
            **ctx.numbers,
            **{f"parameter{i}": p.expand(K * B, *p.shape[1:]) for i, p in enumerate(parameters)},
            **{f"sequence{q}": part.flatten(0, 1) for q, part in zip(schedule.read, read, strict=True)},
            **{name: next(saved).flatten(0, 1) for name in program.kept},
        }
        factors = []
        for stage in program.stages:
            kept = [next(saved).flatten(0, 1) for _ in stage.kept]
            factors.append([_by_step(factor, K, B) for factor in stage.factors(kept, named)])
        products = _products(program, [matrix.t() for matrix in matrices])
        later = {f"leaf{i}": grad for i, grad in enumerate(grads[1:]) if grad.is_floating_point()}
        examples = dict(schedule.raw)
        over_time = [
            {
                name: grads[0].new_empty(K, B, *examples[name].shape[1:])
                for name in stage.gradients
                if not name.startswith("leaf")
            }
            for stage in program.stages
        ]
        targets = [_steps(list(arrays.values()), K) for arrays in over_time]
        dy = grads[0].unbind(0)
        for t in reversed(range(K)):
            seeds = {"y": dy[t], **later}
            total: dict[str, Tensor] = {}
            for place in range(len(program.stages) - 1, -1, -1):
                stage = program.stages[place]
                arriving = [seeds[name] for name in stage.seeds]
                found = stage.back(*arriving, *[factor[t] for factor in factors[place]], *targets[place][t])
                for name, gradient in zip(stage.gradients, found, strict=True):
                    total[name] = total[name] + gradient if name in total else gradient
                for source, operand, matrix in products[place]:
                    target = total if operand.startswith("leaf") else seeds
                    d = total[source]
                    if operand in target:
                        target[operand] = _add_product(target[operand], d, matrix)
                    else:
                        target[operand] = (d.to(matrix.dtype) @ matrix).to(d.dtype)
            later = {name: total[name] if name in total else torch.zeros_like(seeds[name]) for name in later}

        def summed(name: str) -> Tensor:
            return reduce(torch.add, [arrays[name] for arrays in over_time if name in arrays])

        dsums = [summed(f"accumulator{i}") for i in range(len(schedule.accumulators))]
        dmatrices: list[Tensor] = []
        for i, accumulator in enumerate(schedule.accumulators):
            for product in accumulator.by_step:
                a, d = named[f"{product.operand.kind}{product.operand.index}"], dsums[i].flatten(0, 1)
                low = matrices[len(dmatrices)].dtype
                dmatrices.append(a.t().to(low) @ d.to(low))
        dparameters = [summed(f"parameter{i}").sum((0, 1))[None].view_as(p) for i, p in enumerate(parameters)]
        dsums = [
            d.sum((0, 1), keepdim=True) if constant else d for d, constant in zip(dsums, ctx.constant, strict=True)
        ]
        dread = [summed(f"sequence{q}") for q in schedule.read]
        dleaves = [later.get(f"leaf{i}") for i in range(len(schedule.leaves))]
        return None, None, None, *dmatrices, *dparameters, *dsums, *dread, *dleaves


def _products(program: TensorProgram, matrices: Sequence[Tensor]) -> list[list[tuple[str, str, Tensor]]]:
    """Return the products with the state for each stage: names of accumulator and operand, and the matrix."""
    found: list[list[tuple[str, str, Tensor]]] = [[] for _ in program.stages]
    remaining = iter(matrices)
    for i, accumulator in enumerate(program.schedule.accumulators):
        for product in accumulator.by_step:
            operand = product.operand
            found[accumulator.stage].append((f"accumulator{i}", f"{operand.kind}{operand.index}", next(remaining)))
    return found


def _add_product(total: Tensor, a: Tensor, matrix: Tensor) -> Tensor:
    if matrix.dtype == total.dtype:
        return torch.addmm(total, a, matrix)
    return total + (a.to(matrix.dtype) @ matrix).to(total.dtype)


def _add_product_(total: Tensor, a: Tensor, matrix: Tensor) -> None:
    if matrix.dtype == total.dtype:
        total.addmm_(a, matrix)
    else:
        total.add_(a.to(matrix.dtype) @ matrix)


def _for_each_step(total: Tensor, K: int, B: int) -> Tensor:
    """Return what an accumulator gets before the loop, for each row and step: products are added in place."""
    return total if total.shape[:2] == (K, B) else total.expand(K, B, -1).contiguous()


def _steps(arrays: Sequence[Tensor], K: int) -> list[tuple[Tensor, ...]]:
    """Return the parts of ``arrays`` for each step."""
    return list(zip(*(array.unbind(0) for array in arrays), strict=True)) if arrays else [()] * K


def _by_step(factor: Tensor, K: int, B: int) -> Sequence[Tensor]:
    """Return a factor of the backward pass for each step."""
    if factor.dim() > 0 and factor.shape[0] == K * B:
        return factor.view(K, B, *factor.shape[1:]).unbind(0)
    return [factor] * K
