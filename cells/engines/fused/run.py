"""Running a program over a batch of sequences, as one node of autograd.

Shapes: B batch, T time, N features, n rows of a block, K steps of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cells.engines.fused.errors import SECOND_DERIVATIVE
from cells.engines.fused.program import Program
from cells.engines.fused.threads import run_blocks
from cells.engines.fused.workspace import Lease

MOST_ROWS = 64  # of a block: its states and accumulators of a step stay in the cache
CHUNK = 2**18  # numbers in the accumulators of a chunk


@dataclass(frozen=True)
class Inputs:
    """What a program reads, in the order of the arguments of :class:`_Fused`."""

    sequences: list[Tensor]
    matrices: dict[int, Tensor]
    vectors: dict[int, Tensor]
    leaves: list[Tensor]


def run_program(program: Program, x_BTI: Tensor, leaves: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Compute a sequence: y_BTN and the last leaves."""
    B, T, _ = x_BTI.shape
    results = program.schedule.prologue(x_BTI.reshape(B * T, -1), *tensors)
    results = [
        result.reshape(B, T, -1) if kind == "sequence" else result
        for result, kind in zip(results, program.schedule.results, strict=True)
    ]
    arguments = [*results, *leaves]
    if torch.is_grad_enabled() and any(argument.requires_grad for argument in arguments):
        return list(_Fused.apply(program, *arguments))  # type: ignore[no-untyped-call]  # torch's Function is untyped
    outputs, _ = _forward(program, arguments, keep=False)
    return outputs


class _Block:
    """Rows ``start`` to ``start + rows`` of a batch, and where their arrays lie in the workspace."""

    def __init__(self, start: int, rows: int, lease: Lease) -> None:
        self.start, self.rows, self.lease = start, rows, lease
        self.places: dict[str, int] = {}

    def numbers(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """The first ``count`` numbers of an array."""
        assert self.lease.array is not None
        place = self.places[name]
        return self.lease.array[place : place + count * dtype.itemsize].view(dtype)


@dataclass
class _Kept:
    """What the forward pass leaves to the backward pass besides tensors of autograd."""

    blocks: list[_Block]
    chunk: int


def _split(B: int, threads: int) -> list[tuple[int, int]]:
    parts = threads * -(-B // (threads * MOST_ROWS))
    rows = -(-B // parts)
    return [(start, min(rows, B - start)) for start in range(0, B, rows)]


def _lay_out(sizes: Sequence[dict[str, int]], blocks: Sequence[tuple[int, int]]) -> list[_Block]:
    """Give every array of every block a place in one workspace."""
    total = 0
    places = []
    for named in sizes:
        own = {}
        for name, size in named.items():
            own[name] = total
            total += -(-size // 64) * 64
        places.append(own)
    lease = Lease(total)
    found = []
    for (start, rows), own in zip(blocks, places, strict=True):
        block = _Block(start, rows, lease)
        block.places = own
        found.append(block)
    return found


def _forward(program: Program, arguments: Sequence[Tensor], keep: bool) -> tuple[list[Tensor], _Kept]:
    schedule, kept, dtype = program.schedule, program.kept, program.dtype
    inputs = _sort(program, arguments)
    sequences = [sequence.contiguous() for sequence in inputs.sequences]
    B, T = sequences[0].shape[:2] if sequences else (0, 0)
    threads = torch.get_num_threads()
    split = _split(B, threads)
    rows = split[0][1]
    widest = max((a.width for a in schedule.accumulators), default=program.width("y"))
    chunk = max(1, min(T, CHUNK // (rows * widest)))
    size = dtype.itemsize

    periods = {}
    for i, leaf in enumerate(schedule.leaves):
        always = kept.leaves[i] or not leaf.is_floating_point()
        periods[f"period_leaf{i}"] = T + 1 if keep and always else 2
    for i in range(len(schedule.accumulators)):
        periods[f"period_accumulator{i}"] = T if keep and kept.accumulators[i] else chunk
    sizes = []
    for _, n in split:
        named = {}
        for i, leaf in enumerate(schedule.leaves):
            width = program.width(f"leaf{i}")
            named[f"leaf{i}"] = periods[f"period_leaf{i}"] * n * width * leaf.dtype.itemsize
            if keep and not kept.leaves[i]:
                named[f"starts{i}"] = -(-T // chunk) * n * width * size
        for i in range(len(schedule.accumulators)):
            named[f"accumulator{i}"] = periods[f"period_accumulator{i}"] * n * program.width(f"accumulator{i}") * size
        for i, width in enumerate(schedule.sequences):
            named[f"gathered{i}"] = chunk * n * (width + 1) * size
        for i, width in enumerate(schedule.values):
            named[f"value{i}"] = n * width * size
        sizes.append(named)
    blocks = _lay_out(sizes, split)

    y_BTN = sequences[0].new_empty(B, T, program.width("y"))
    matrices = {i: matrix.contiguous() for i, matrix in inputs.matrices.items()}
    vectors = {i: vector.contiguous() for i, vector in inputs.vectors.items()}
    shared = {
        **program.widths,
        **periods,
        **_addresses(program, matrices, vectors),
        "steps": T,
        "chunk": chunk,
        "gemm": program.blas,
        "numbers": program.numbers.data_ptr(),
    }

    def run(index: int) -> None:
        block = blocks[index]
        n = block.rows
        for i, leaf in enumerate(inputs.leaves):
            width = program.width(f"leaf{i}")
            rows = leaf[block.start : block.start + n].reshape(-1)
            block.numbers(f"leaf{i}", n * width, leaf.dtype).copy_(rows)
        base = block.lease.address()
        values = {
            **shared,
            **{name: base + place for name, place in block.places.items()},
            **{
                f"sequence{i}": sequence.data_ptr() + block.start * T * sequence.shape[2] * size
                for i, sequence in enumerate(sequences)
            },
            "rows": n,
            "y": y_BTN.data_ptr() + block.start * T * program.width("y") * size,
        }
        program.run_forward(values)

    run_blocks(run, len(blocks), threads)
    last = []
    for i, leaf in enumerate(inputs.leaves):
        width = program.width(f"leaf{i}")
        slot = T % periods[f"period_leaf{i}"]
        parts = [
            block.numbers(f"leaf{i}", (slot + 1) * block.rows * width, leaf.dtype)[slot * block.rows * width :]
            for block in blocks
        ]
        last.append(torch.cat(parts).view(B, *leaf.shape[1:]))
    return [y_BTN, *last], _Kept(blocks, chunk)


def _sort(program: Program, arguments: Sequence[Tensor]) -> Inputs:
    kinds = program.schedule.results
    return Inputs(
        [argument for argument, kind in zip(arguments, kinds, strict=False) if kind == "sequence"],
        {i: arguments[i] for i, kind in enumerate(kinds) if kind == "matrix"},
        {i: arguments[i] for i, kind in enumerate(kinds) if kind == "vector"},
        list(arguments[len(kinds) :]),
    )


def _addresses(program: Program, matrices: dict[int, Tensor], vectors: dict[int, Tensor]) -> dict[str, int]:
    schedule = program.schedule
    named = {f"matrix{i}": matrix.data_ptr() for i, matrix in matrices.items()}
    named |= {f"parameter{i}": vectors[place].data_ptr() for i, (place, _) in enumerate(schedule.parameters)}
    for i, accumulator in enumerate(schedule.accumulators):
        if accumulator.bias is not None:
            named[f"bias{i}"] = vectors[accumulator.bias].data_ptr()
    return named


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, *arguments: Tensor) -> tuple[Tensor, ...]:
        outputs, ctx.kept = _forward(program, arguments, keep=True)
        ctx.program = program
        ctx.save_for_backward(*arguments)
        ctx.mark_non_differentiable(*(output for output in outputs if not output.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        return None, *_backward(ctx.program, ctx.saved_tensors, ctx.kept, grads, ctx.needs_input_grad[1:])


def _backward(
    program: Program, arguments: Sequence[Tensor], kept: _Kept, grads: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    schedule, dtype = program.schedule, program.dtype
    size = dtype.itemsize
    inputs = _sort(program, arguments)
    sequences = [sequence.contiguous() for sequence in inputs.sequences]
    B, T = sequences[0].shape[:2]
    chunk = kept.chunk
    blocks = kept.blocks
    dy_BTN = grads[0].contiguous()
    matrices = {i: matrix.contiguous() for i, matrix in inputs.matrices.items()}
    vectors = {i: vector.contiguous() for i, vector in inputs.vectors.items()}
    transposed = {i: matrix.t().contiguous() for i, matrix in matrices.items()}
    kinds = schedule.results

    def per_block(i: int) -> Tensor | None:
        """Room for the gradient of a weight, for each block."""
        wanted = needed[i] or i in {place for place, _ in schedule.parameters}
        return arguments[i].new_zeros(len(blocks), *arguments[i].shape) if wanted else None

    weights = {i: per_block(i) for i, kind in enumerate(kinds) if kind != "sequence"}
    places = [i for i, kind in enumerate(kinds) if kind == "sequence"]
    dsequences = [
        torch.zeros_like(sequence) if q in schedule.read else torch.empty_like(sequence) if needed[place] else None
        for q, (place, sequence) in enumerate(zip(places, sequences, strict=True))
    ]
    dleaves = [
        grad.reshape(B, -1).clone(memory_format=torch.contiguous_format) if leaf.is_floating_point() else None
        for grad, leaf in zip(grads[1:], inputs.leaves, strict=True)
    ]
    sizes = []
    for block in blocks:
        n = block.rows
        named = {}
        for i, leaf in enumerate(schedule.leaves):
            if leaf.is_floating_point() and not program.kept.leaves[i]:
                named[f"leaf{i}"] = (chunk + 1) * n * program.width(f"leaf{i}") * size
        for i, always in enumerate(program.kept.accumulators):
            width = program.width(f"accumulator{i}")
            named[f"daccumulator{i}"] = chunk * n * width * size
            if not always:
                named[f"accumulator{i}"] = chunk * n * width * size
        for i, width in enumerate(schedule.sequences):
            named[f"gathered{i}"] = chunk * n * (width + 1) * size
            named[f"dgathered{i}"] = chunk * n * width * size
        for i, width in enumerate(schedule.values):
            named[f"value{i}"] = chunk * n * width * size
            named[f"dvalue{i}"] = n * width * size
        sizes.append(named)
    scratch = _lay_out(sizes, [(block.start, block.rows) for block in blocks])
    ones = torch.ones(chunk * max(block.rows for block in blocks), dtype=dtype)
    shared = {
        **program.widths,
        **_addresses(program, matrices, vectors),
        **{f"transposed{i}": matrix.data_ptr() for i, matrix in transposed.items()},
        **{f"stride_transposed{i}": matrix.shape[1] for i, matrix in transposed.items()},
        "steps": T,
        "chunk": chunk,
        "gemm": program.blas,
        "numbers": program.numbers.data_ptr(),
        "ones": ones.data_ptr(),
    }

    def run(index: int) -> None:
        block, own = blocks[index], scratch[index]
        values = {
            **shared,
            **{name: block.lease.address() + place for name, place in block.places.items()},
            **{name: own.lease.address() + place for name, place in own.places.items()},
            "rows": block.rows,
            "dy": dy_BTN.data_ptr() + block.start * T * program.width("y") * size,
        }
        for q, (sequence, gradient) in enumerate(zip(sequences, dsequences, strict=True)):
            offset = block.start * T * sequence.shape[2] * size
            values[f"sequence{q}"] = sequence.data_ptr() + offset
            values[f"dsequence{q}"] = 0 if gradient is None else gradient.data_ptr() + offset
        for i, dleaf in enumerate(dleaves):
            if dleaf is not None:
                values[f"dleaf{i}"] = dleaf.data_ptr() + block.start * dleaf.shape[1] * size
        for i, gradients in weights.items():
            if gradients is not None and kinds[i] == "matrix":
                values[f"dmatrix{i}"] = gradients[index].data_ptr()
        for i, (place, _) in enumerate(schedule.parameters):
            found = weights[place]
            assert found is not None
            values[f"dparameter{i}"] = found[index].data_ptr()
        for i, accumulator in enumerate(schedule.accumulators):
            found = None if accumulator.bias is None else weights[accumulator.bias]
            values[f"dbias{i}"] = 0 if found is None else found[index].data_ptr()
        program.run_backward(values)

    run_blocks(run, len(blocks), torch.get_num_threads())
    results: list[Tensor | None] = []
    remaining = iter(dsequences)
    for i, kind in enumerate(kinds):
        if kind == "sequence":
            gradient = next(remaining)
            results.append(gradient if needed[i] else None)
        else:
            gradient = weights[i]
            results.append(gradient.sum(0) if gradient is not None and needed[i] else None)
    for dleaf, leaf in zip(dleaves, inputs.leaves, strict=True):
        results.append(None if dleaf is None else dleaf.view(leaf.shape))
    return results
