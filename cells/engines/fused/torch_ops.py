"""The same schedule as torch operations, for devices and precisions that have no compiled code.

A chunk of steps is one node of autograd. In its backward pass everything that does not depend on the gradients is
computed for all steps of the chunk at once; only the rest, and the products with the state, runs step by step.

Shapes: B batch, T time, K steps of a chunk, N features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cells.engines.fused.errors import SECOND_DERIVATIVE
from cells.engines.fused.schedule import Accumulator, Schedule
from cells.engines.fused.torch_program import TensorProgram, TensorStage
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
        numbers = [torch.tensor(number, dtype=torch.float64) for number in schedule.numbers]
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
    return [y_TBN.transpose(0, 1).contiguous(), *state]


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
        ctx: Any, program: TensorProgram, K: int, numbers: list[Tensor], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        schedule = program.schedule
        given = _Arguments.of(schedule, tensors)
        sums = [total.expand(K, -1, -1).unbind(0) for total in given.sums]
        read = [sequence.unbind(0) for sequence in given.read]
        parameters = {f"parameter{i}": parameter for i, parameter in enumerate(given.parameters)}
        states = [given.leaves]
        kept: list[list[Tensor]] = []
        outputs = []
        for t in range(K):
            values: dict[int, Tensor] = {}
            now = [total[t] for total in sums]
            for index, stage in enumerate(program.stages):
                matrices = iter(given.matrices)
                for i, accumulator in enumerate(schedule.accumulators):
                    for product, matrix in zip(accumulator.by_step, matrices, strict=False):
                        if accumulator.stage == index:
                            operand = product.operand
                            a = states[-1][operand.index] if operand.kind == "leaf" else values[operand.index]
                            now[i] = _add_product(now[i], a, matrix)
                named = {
                    **{f"leaf{i}": leaf for i, leaf in enumerate(states[-1])},
                    **{f"accumulator{i}": total for i, total in enumerate(now)},
                    **{f"sequence{q}": sequence[t] for q, sequence in zip(schedule.read, read, strict=True)},
                    **parameters,
                }
                found = stage.outputs(named, numbers)
                values.update(zip(schedule.stages[index].values, found, strict=False))
            outputs.append(found[0])
            states.append(list(found[1:]))
            kept.append(now)
        saved = [
            *tensors,
            *(torch.stack([state[i] for state in states[:-1]]) for i in range(len(schedule.leaves))),
            *(torch.stack([now[i] for now in kept]) for i in range(len(sums))),
        ]
        ctx.save_for_backward(*saved)
        ctx.program, ctx.numbers, ctx.K = program, numbers, K
        last = [leaf.clone() if leaf is before else leaf for leaf, before in zip(states[-1], states[-2], strict=True)]
        ctx.mark_non_differentiable(*(leaf for leaf in last if not leaf.is_floating_point()))
        return torch.stack(outputs), *last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        program: TensorProgram = ctx.program
        schedule, K = program.schedule, ctx.K
        count = len(schedule.leaves) + len(schedule.accumulators)
        tensors = ctx.saved_tensors
        given = _Arguments.of(schedule, tensors[:-count])
        states, kept = tensors[-count:][: len(schedule.leaves)], tensors[-count:][len(schedule.leaves) :]
        B = grads[0].shape[1]
        named = {
            **{f"leaf{i}": leaf.flatten(0, 1) for i, leaf in enumerate(states)},
            **{f"accumulator{i}": total.flatten(0, 1) for i, total in enumerate(kept)},
            **{f"sequence{q}": part.flatten(0, 1) for q, part in zip(schedule.read, given.read, strict=True)},
            **{f"parameter{i}": p.expand(K * B, *p.shape[1:]) for i, p in enumerate(given.parameters)},
        }
        prepared = [_by_step(stage, named, ctx.numbers, K, B) for stage in program.stages]
        dy = grads[0].unbind(0)
        later = {f"leaf{i}": grad for i, grad in enumerate(grads[1:])}
        over_time: dict[str, list[Tensor]] = {
            name: [] for name in named if not name.startswith("leaf") or name in later
        }
        for t in reversed(range(K)):
            seeds = {"y": dy[t], **later}
            total: dict[str, Tensor] = {}
            for index in range(len(program.stages) - 1, -1, -1):
                stage = program.stages[index]
                wanted = [seeds[name] for name in stage.derivative.real_outputs]
                found = stage.back(*wanted, *(parts[t] for parts in prepared[index]))
                for name, gradient in zip(stage.derivative.real, found, strict=True):
                    total[name] = gradient if name not in total else total[name] + gradient
                matrices = iter(given.matrices)
                for i, accumulator in enumerate(schedule.accumulators):
                    for product, matrix in zip(accumulator.by_step, matrices, strict=False):
                        if accumulator.stage == index:
                            operand = product.operand
                            target = total if operand.kind == "leaf" else seeds
                            name = f"{operand.kind}{operand.index}"
                            d = total[f"accumulator{i}"]
                            if name in target:
                                target[name] = _add_product(target[name], d, matrix.t())
                            else:
                                target[name] = (d.to(matrix.dtype) @ matrix.t()).to(d.dtype)
            later = {name: total.get(name, gradient) for name, gradient in later.items()}
            for name, gradient in total.items():
                if not name.startswith("leaf"):
                    over_time[name].append(gradient)
        dkept = [torch.stack(over_time[f"accumulator{i}"][::-1]) for i in range(len(kept))]
        dmatrices = []
        matrices = iter(given.matrices)
        for i, accumulator in enumerate(schedule.accumulators):
            for product, matrix in zip(accumulator.by_step, matrices, strict=False):
                a = _operand(schedule, program, product.operand, named, ctx.numbers)
                d = dkept[i].flatten(0, 1)
                dmatrices.append(a.t().to(matrix.dtype) @ d.to(matrix.dtype))
        dparameters = [
            torch.stack(over_time[f"parameter{i}"]).sum((0, 1))[None].view_as(p) for i, p in enumerate(given.parameters)
        ]
        dsums = [
            d if total.shape == d.shape else d.sum((0, 1), keepdim=True)
            for d, total in zip(dkept, given.sums, strict=True)
        ]
        dread = [torch.stack(over_time[f"sequence{q}"][::-1]) for q in schedule.read]
        return None, None, None, *dmatrices, *dparameters, *dsums, *dread, *later.values()


def _add_product(total: Tensor, a: Tensor, matrix: Tensor) -> Tensor:
    if matrix.dtype == total.dtype:
        return torch.addmm(total, a, matrix)
    return total + (a.to(matrix.dtype) @ matrix).to(total.dtype)


def _by_step(
    stage: TensorStage, named: dict[str, Tensor], numbers: list[Tensor], K: int, B: int
) -> list[Sequence[Tensor]]:
    """Return what the backward pass of a stage needs, for each step."""
    found = stage.prepare(*stage.arguments(named), *numbers)
    return [
        part.view(K, B, *part.shape[1:]).unbind(0) if part.dim() > 0 and part.shape[0] == K * B else [part] * K
        for part in found
    ]


def _operand(
    schedule: Schedule, program: TensorProgram, operand: Any, named: dict[str, Tensor], numbers: list[Tensor]
) -> Tensor:
    """Return the left factor of a product with the state, for all steps of the chunk."""
    if operand.kind == "leaf":
        return named[f"leaf{operand.index}"]
    for part, stage in zip(schedule.stages, program.stages, strict=True):
        if operand.index in part.values:
            return stage.outputs(named, numbers)[part.values.index(operand.index)]
    raise AssertionError("every value is an output of a stage")
