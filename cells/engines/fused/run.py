"""Running a program over a batch of sequences, as one node of autograd.

Shapes: B batch, T time, N features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cells.engines.fused.errors import SECOND_DERIVATIVE
from cells.engines.fused.layout import (
    Block,
    backward_sizes,
    cut_rows,
    cut_steps,
    forward_periods,
    forward_sizes,
    lay_out,
)
from cells.engines.fused.program import Program
from cells.engines.fused.threads import run_blocks
from cells.engines.fused.workspace import Lease


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


@dataclass
class _Kept:
    """What the forward pass leaves to the backward pass besides tensors of autograd."""

    blocks: list[Block]
    chunk: int


def _forward(program: Program, tensors: Sequence[Tensor], keep: bool) -> tuple[list[Tensor], _Kept]:
    inputs = _sort(program, tensors)
    sequences = [sequence.contiguous() for sequence in inputs.sequences]
    B, T = sequences[0].shape[:2] if sequences else (0, 0)
    threads = torch.get_num_threads()
    rows = cut_rows(B, threads)
    chunk = cut_steps(program, rows[0][1], T)
    periods = forward_periods(program, T, chunk, keep)
    blocks = lay_out(rows, [forward_sizes(program, n, T, chunk, periods, keep) for _, n in rows])
    y_BTN = sequences[0].new_empty(B, T, program.width("y"))
    vectors = {i: vector.contiguous() for i, vector in inputs.vectors.items()}
    packed = _pack(program, {f"matrix{i}": matrix for i, matrix in inputs.matrices.items()})
    leaves = [leaf.contiguous() for leaf in inputs.leaves]
    last = [torch.empty_like(leaf) for leaf in leaves]
    shared = {
        **_shared(program, packed, vectors, T, chunk),
        **{f"period_{name}": period for name, period in periods.items()},
    }
    named = {
        "y": y_BTN,
        **{f"sequence{i}": sequence for i, sequence in enumerate(sequences)},
        **{f"first_leaf{i}": leaf for i, leaf in enumerate(leaves)},
        **{f"last_leaf{i}": leaf for i, leaf in enumerate(last)},
    }
    arguments = [program.forward.arguments({**shared, **block.addresses(), **block.rows_of(named)}) for block in blocks]
    run_blocks(program.forward, arguments, threads)
    return [y_BTN, *last], _Kept(blocks, chunk)


def _sort(program: Program, tensors: Sequence[Tensor]) -> Inputs:
    kinds = program.schedule.results
    return Inputs(
        [tensor for tensor, kind in zip(tensors, kinds, strict=False) if kind == "sequence"],
        {i: tensors[i] for i, kind in enumerate(kinds) if kind == "matrix"},
        {i: tensors[i] for i, kind in enumerate(kinds) if kind == "vector"},
        list(tensors[len(kinds) :]),
    )


def _pack(program: Program, matrices: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return matrices in the order in which products read them."""
    return {name: program.products.pack(matrix) for name, matrix in matrices.items()}


def _shared(
    program: Program, packed: dict[str, Tensor], vectors: dict[int, Tensor], T: int, chunk: int
) -> dict[str, int]:
    """Return the parameters of the compiled code that are the same for all blocks."""
    schedule, products = program.schedule, program.products
    named = {name: matrix.data_ptr() for name, matrix in packed.items()}
    named |= {f"panel_{name}": matrix.stride(0) for name, matrix in packed.items()}
    named |= {f"parameter{i}": vectors[place].data_ptr() for i, (place, _) in enumerate(schedule.parameters)}
    for i, accumulator in enumerate(schedule.accumulators):
        if accumulator.bias is not None:
            named[f"bias{i}"] = vectors[accumulator.bias].data_ptr()
    named |= {"product": products.product, "transposed_product": products.transposed_product}
    return {**program.widths, **named, "steps": T, "chunk": chunk, "numbers": program.numbers.data_ptr()}


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
    program: Program, tensors: Sequence[Tensor], kept: _Kept, grads: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    schedule, blocks, chunk = program.schedule, kept.blocks, kept.chunk
    inputs = _sort(program, tensors)
    sequences = [sequence.contiguous() for sequence in inputs.sequences]
    B, T = sequences[0].shape[:2]
    dy_BTN = grads[0].contiguous()
    vectors = {i: vector.contiguous() for i, vector in inputs.vectors.items()}
    matrices = {f"matrix{i}": matrix for i, matrix in inputs.matrices.items()}
    matrices |= {f"transposed{i}": matrix.t() for i, matrix in inputs.matrices.items()}
    packed = _pack(program, {name: matrix for name, matrix in matrices.items() if name in program.backward.names})
    kinds = schedule.results
    weights = _WeightGradients(program, {**inputs.matrices, **inputs.vectors}, needed, len(blocks))
    places = [i for i, kind in enumerate(kinds) if kind == "sequence"]
    dsequences = [
        torch.zeros_like(sequence) if q in schedule.read else torch.empty_like(sequence) if needed[place] else None
        for q, (place, sequence) in enumerate(zip(places, sequences, strict=True))
    ]
    dleaves = [
        grad.reshape(B, -1).clone(memory_format=torch.contiguous_format) if leaf.is_floating_point() else None
        for grad, leaf in zip(grads[1:], inputs.leaves, strict=True)
    ]
    rows = [(block.start, block.rows) for block in blocks]
    scratch = lay_out(rows, [backward_sizes(program, n, chunk) for _, n in rows])
    ones = torch.ones(chunk * max(block.rows for block in blocks), dtype=program.dtype)
    shared = {**_shared(program, packed, vectors, T, chunk), "ones": ones.data_ptr()}
    named = {
        "dy": dy_BTN,
        **{f"sequence{q}": sequence for q, sequence in enumerate(sequences)},
        **{f"dsequence{q}": gradient for q, gradient in enumerate(dsequences) if gradient is not None},
        **{f"dleaf{i}": dleaf for i, dleaf in enumerate(dleaves) if dleaf is not None},
    }
    arguments = []
    for index, (block, room) in enumerate(zip(blocks, scratch, strict=True)):
        own = {**block.addresses(), **room.addresses(), **block.rows_of(named), **weights.addresses(index)}
        arguments.append(program.backward.arguments({**shared, **own}))
    run_blocks(program.backward, arguments, torch.get_num_threads())
    results: list[Tensor | None] = []
    remaining = iter(dsequences)
    for i, kind in enumerate(kinds):
        gradient = next(remaining) if kind == "sequence" else weights.total(i)
        results.append(gradient if needed[i] else None)
    for dleaf, leaf in zip(dleaves, inputs.leaves, strict=True):
        results.append(None if dleaf is None else dleaf.view(leaf.shape))
    return results


class _WeightGradients:
    """The gradients of weights, for each block apart.

    Args:
        program: The step.
        weights: Matrices and vectors by their places among the results of the prologue.
        needed: Whether a gradient is wanted. Kernels write those of the vectors that they read in any case.
        blocks: Number of blocks.
    """

    def __init__(self, program: Program, weights: dict[int, Tensor], needed: Sequence[bool], blocks: int) -> None:
        self.schedule = program.schedule
        self.weights = weights
        read = {place for place, _ in self.schedule.parameters}
        self.parts = {i: weight.new_zeros(blocks, *weight.shape) for i, weight in weights.items() if i in read}
        self.leases = []  # of memory that need not be 0, because the first chunk of steps sets it
        for i in weights.keys() - read:
            if needed[i]:
                shape = blocks, *weights[i].shape
                self.leases.append(Lease(math.prod(shape) * program.dtype.itemsize))
                self.parts[i] = self.leases[-1].numbers(shape, program.dtype)

    def addresses(self, block: int) -> dict[str, int]:
        """Return the addresses of the gradients of a block, by the names that the code has for them."""
        names = {f"dmatrix{i}": i for i, kind in enumerate(self.schedule.results) if kind == "matrix"}
        names |= {f"dparameter{i}": place for i, (place, _) in enumerate(self.schedule.parameters)}
        names |= {f"dbias{i}": a.bias for i, a in enumerate(self.schedule.accumulators) if a.bias is not None}
        return {name: self.parts[i][block].data_ptr() for name, i in names.items() if i in self.parts}

    def total(self, i: int) -> Tensor | None:
        """Return the sum over the blocks, in the order of the weight."""
        return torch.sum(self.parts[i], 0, out=torch.empty_like(self.weights[i])) if i in self.parts else None
