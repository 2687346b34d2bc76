"""Pointwise kernels: one stage of a step for all units of a block of rows.

A kernel is a function ``kernel(rows, W, numbers, address, stride, address, stride, ..)`` with an address and a row
stride, counted in numbers, for each block of its arrays. Blocks have addresses of their own because LLVM can then see
that they do not overlap, which it needs to know to compute many units at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llvmlite import ir

from cells.engines.fused.arithmetic import FLAGS, Arithmetic
from cells.engines.fused.code import INT, POINTER, Function, Int
from cells.engines.fused.expressions import Expression, in_order

Block = tuple[str, int]


@dataclass(frozen=True)
class Result:
    """Where a kernel writes the blocks of an array.

    Attributes:
        array: Name of the array.
        blocks: The expressions, in the order of memory.
        mode: ``store``, or ``add`` to what the array holds.
    """

    array: str
    blocks: tuple[Expression, ...]
    mode: Literal["store", "add"] = "store"


@dataclass(frozen=True)
class Kernel:
    """A kernel, and the blocks that it takes, in order: name of the array and place in it."""

    function: ir.Function
    blocks: tuple[Block, ...]


def emit_kernel(module: ir.Module, real: ir.Type, name: str, results: Sequence[Result]) -> Kernel:
    """Add a kernel that computes ``results`` to ``module``."""
    ordered = in_order(block for result in results for block in result.blocks)
    read = [x.args for x in ordered if x.op == "input" and x.args[0] != "numbers"]
    written = [(result.array, place) for result in results for place in range(len(result.blocks))]
    blocks: tuple[Block, ...] = tuple(dict.fromkeys([*read, *written]))  # type: ignore[list-item]  # args of an input
    function = Function(module, name, [INT, INT, POINTER, *[POINTER, INT] * len(blocks)])
    function.function.attributes.add("noinline")
    set.add(function.function.attributes, '"prefer-vector-width"="512"')  # LLVM would use half where it has them
    for argument in function.function.args:
        if argument.type == POINTER:
            argument.add_attribute("noalias")
    _Emitter(function, real, blocks).emit(ordered, results)
    return Kernel(function.finish(), blocks)


class _Emitter:
    def __init__(self, function: Function, real: ir.Type, blocks: Sequence[Block]) -> None:
        self.function = function
        self.builder = function.builder
        self.real = real
        self.arithmetic = Arithmetic(function.builder, real)
        rows, width, self.numbers, *rest = function.function.args
        self.rows, self.width = function.int(rows), function.int(width)
        self.addresses = dict(zip(blocks, rest[::2], strict=True))
        self.strides = {block: function.int(stride) for block, stride in zip(blocks, rest[1::2], strict=True)}
        self.values: dict[Expression, ir.Value] = {}

    def emit(self, ordered: Sequence[Expression], results: Sequence[Result]) -> None:
        for x in ordered:
            if x.op == "number" or x.args[0] == "numbers":
                self.values[x] = self._constant(x)
        per_row = [result for result in results if all(x.per_row and x.kind == "int" for x in result.blocks)]
        with self.function.loop(self.rows) as row:
            for x in ordered:
                if x.per_row and x not in self.values:
                    self.values[x] = self._value(x, row, None)
            for result in per_row:
                self._write(result, row, None)
            with self.function.loop(self.width) as unit:
                for x in ordered:
                    if not x.per_row:
                        self.values[x] = self._value(x, row, unit)
                for result in results:
                    if result not in per_row:
                        self._write(result, row, unit)

    def _constant(self, x: Expression) -> ir.Value:
        if x.op == "input":
            assert isinstance(x.args[1], int)
            where = self.builder.gep(self.numbers, [ir.Constant(INT, x.args[1])], source_etype=self.real)
            return self.builder.load(where, typ=self.real)
        types = {"real": self.real, "int": INT, "bool": ir.IntType(1)}
        return ir.Constant(types[x.kind], x.args[1])

    def _value(self, x: Expression, row: Int, unit: Int | None) -> ir.Value:
        if x.op != "input":
            return self.arithmetic.emit(x, [self.values[arg] for arg in x.operands()])
        kind = INT if x.kind == "int" else self.real
        return self.builder.load(self._address(x.args, kind, row, unit), typ=kind)

    def _address(self, block: tuple[object, ...], kind: ir.Type, row: Int, unit: Int | None) -> ir.Value:
        index = row * self.strides[block]  # type: ignore[index]  # a Block
        index = index if unit is None else index + unit
        return self.builder.gep(self.addresses[block], [index.value], source_etype=kind)  # type: ignore[index]

    def _write(self, result: Result, row: Int, unit: Int | None) -> None:
        for place, x in enumerate(result.blocks):
            value = self.values[x]
            where = self._address((result.array, place), value.type, row, unit)
            if result.mode == "add":
                value = self.builder.fadd(self.builder.load(where, typ=value.type), value, flags=FLAGS)
            self.builder.store(value, where)
