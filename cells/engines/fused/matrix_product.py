"""Machine code for matrix products.

BLAS libraries copy the right factor into another order at each call, and choose their tiles for large matrices. Here a
weight is the right factor of a product at every step of a sequence, and the left one has few rows: so weights are
copied once a sequence (:meth:`MatrixProducts.pack`), and a tile of C has as many rows as the registers can hold.

Order of a packed matrix (k, n): [panel][row][column of the panel], where a panel is as wide as two vectors; the last
one is filled with zeros.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from llvmlite import ir
from torch import Tensor

from cells.engines.fused.arithmetic import FLAGS
from cells.engines.fused.code import INT, POINTER, VOID, Function, Int, compile_text, new_module, processor_features

DEPTH = 256  # rows of a panel that are used at a time: they stay in the L1 cache
AHEAD = 32  # how many rows before its use a row of a panel is fetched
VECTORS = 2  # in a row of a panel


@dataclass(frozen=True)
class Registers:
    """The vector registers of a processor: how many bits each has, and how many there are."""

    bits: int
    count: int

    @classmethod
    def of_this_processor(cls) -> Registers:
        features = processor_features()
        if features.get("avx512f"):
            return cls(512, 32)
        if features.get("avx"):
            return cls(256, 16)
        return cls(128, 32 if features.get("neon") else 16)


class MatrixProducts:
    """Compiled products of matrices of one type. All but packed ones are by rows.

    Args:
        dtype: float32 or float64.
        registers: Those that the code may use.

    Attributes:
        dtype: The type of a number.
        width: Columns of a panel.
        product: Address of the function ``product(add, m, n, k, a, a_stride, b, panel, c)``: C (m, n) = A (m, k)
            B (k, n), or added to C. B is packed; ``panel`` is the distance of its panels, in numbers.
        transposed_product: Address of ``transposed_product(add, m, n, k, a, a_stride, b, b_stride, c)``: C = Aᵀ B with
            A in memory as (k, m) and B as (k, n).
    """

    def __init__(self, dtype: torch.dtype, registers: Registers) -> None:
        self.dtype = dtype
        single = dtype == torch.float32
        self.width = VECTORS * registers.bits // (32 if single else 64)
        self._engine = compile_text(_write(ir.FloatType() if single else ir.DoubleType(), self.width, registers))
        self.product: int = self._engine.get_function_address("product")
        self.transposed_product: int = self._engine.get_function_address("transposed_product")

    def pack(self, matrix: Tensor) -> Tensor:
        """Return a matrix (k, n) as (panels, k, width)."""
        k, n = matrix.shape
        full, rest = divmod(n, self.width)
        packed = matrix.new_empty(full + (rest > 0), k, self.width)
        packed[:full] = matrix[:, : full * self.width].reshape(k, full, self.width).transpose(0, 1)
        if rest:
            packed[full, :, :rest] = matrix[:, full * self.width :]
            packed[full, :, rest:] = 0
        return packed


@functools.cache
def matrix_products(dtype: torch.dtype) -> MatrixProducts:
    """Return the products for this processor."""
    return MatrixProducts(dtype, Registers.of_this_processor())


def _write(real: ir.Type, width: int, registers: Registers) -> str:
    module = new_module()
    most_rows = (registers.count - VECTORS - 2) // VECTORS  # others hold a part of B and a number of A
    tiles = [_Tile(module, real, rows, width).emit() for rows in range(1, most_rows + 1)]
    for name, transposed in (("product", False), ("transposed_product", True)):
        _emit_product(module, real, name, tiles, width, transposed)
    return str(module)


def _emit_product(
    module: ir.Module, real: ir.Type, name: str, tiles: list[ir.Function], width: int, transposed: bool
) -> None:
    """Write a product as a loop over the panels of B, the rows of a panel, and tiles of rows of equal height."""
    f = Function(module, name, [INT] * 9, public=True)
    add, m, n, k, a, a_stride, b, b_stride, c = map(f.int, f.function.args)
    size = 4 if real == ir.FloatType() else 8
    one = f.int(1)
    to_row, to_column = (one, a_stride) if transposed else (a_stride, one)
    buffer = f.on_stack(ir.ArrayType(real, DEPTH * width)) if transposed else None
    count = (m + (len(tiles) - 1)) // len(tiles)
    height, higher = m // count, m % count  # the first tiles have a row more
    with f.loop((n + (width - 1)) // width) as p, f.loop((k + (DEPTH - 1)) // DEPTH) as q:
        columns = n - p * width
        depth = (k - q * DEPTH).least(f.int(DEPTH))
        if buffer is None:
            panel = b + (p * b_stride + q * (DEPTH * width)) * size
        else:
            panel = buffer
            with f.loop(depth) as i:
                start = b + ((q * DEPTH + i) * b_stride + p * width) * size
                f.copy(panel + i * (width * size), start, columns.least(f.int(width)) * size)
        with f.loop(count) as t:
            row = t * height + t.least(higher)
            places = [a + (row * to_row + q * DEPTH * to_column) * size, panel, c + (row * n + p * width) * size]
            arguments = [depth, *places, to_row, to_column, n, columns, add + q]
            f.call_one_of(tiles, height - 1 + t.is_less(higher), arguments)
    f.finish()


class _Tile:
    """The function ``tile(depth, a, panel, c, to_row, to_column, c_stride, columns, add)`` for a number of rows.

    It multiplies so many rows of A with a panel of B. The sums stay in registers; at the end they are written to C, or
    added to it. Columns of the panel beyond those of C are left out.
    """

    def __init__(self, module: ir.Module, real: ir.Type, rows: int, width: int) -> None:
        self.f = Function(module, f"tile{rows}", [INT] * 9)
        self.f.function.attributes.add("noinline")
        set.add(self.f.function.attributes, '"prefer-vector-width"="512"')  # LLVM would use half where it has them
        self.module, self.real, self.rows = module, real, rows
        self.lanes = width // VECTORS
        self.vector = ir.VectorType(real, self.lanes)

    def emit(self) -> ir.Function:
        depth, a, panel, c, to_row, to_column, c_stride, columns, add = map(self.f.int, self.f.function.args)
        b = self.f.builder
        a_place, panel_place, c_place = (b.inttoptr(x.value, POINTER) for x in (a, panel, c))
        before, body, after = b.block, b.append_basic_block("body"), b.append_basic_block("after")
        b.branch(body)
        b.position_at_end(body)
        index = b.phi(INT)
        cells = [(row, part) for row in range(self.rows) for part in range(VECTORS)]
        sums = {cell: b.phi(self.vector) for cell in cells}
        k = self.f.int(index)
        parts = [self._load(panel_place, k * (VECTORS * self.lanes) + part * self.lanes) for part in range(VECTORS)]
        for part in range(VECTORS):
            self._fetch(panel_place, (k + AHEAD) * (VECTORS * self.lanes) + part * self.lanes)
        more = {}
        for row in range(self.rows):
            place = b.gep(a_place, [(k * to_column + to_row * row).value], source_etype=self.real)
            number = self._everywhere(b.load(place, typ=self.real))
            for part in range(VECTORS):
                product = b.fmul(number, parts[part], flags=FLAGS)
                more[row, part] = b.fadd(sums[row, part], product, flags=FLAGS)
        following = (k + 1).value
        zeros = ir.Constant(self.vector, [0.0] * self.lanes)
        for phi, start, end in [(index, ir.Constant(INT, 0), following), *((sums[x], zeros, more[x]) for x in cells)]:
            phi.add_incoming(start, before)
            phi.add_incoming(end, body)
        b.cbranch(b.icmp_signed("<", following, depth.value), body, after)
        b.position_at_end(after)
        inside = [self._inside(columns - part * self.lanes) for part in range(VECTORS)]
        adds = self._everywhere(b.icmp_signed("!=", add.value, ir.Constant(INT, 0)))
        for row, part in cells:
            place = b.gep(c_place, [(c_stride * row + part * self.lanes).value], source_etype=self.real)
            old = self._masked_load(place, b.and_(inside[part], adds))
            self._masked_store(b.fadd(old, more[row, part], flags=FLAGS), place, inside[part])
        return self.f.finish()

    def _load(self, base: ir.Value, index: Int) -> ir.Value:
        place = self.f.builder.gep(base, [index.value], source_etype=self.real)
        return self.f.builder.load(place, typ=self.vector, align=self._alignment)

    def _fetch(self, base: ir.Value, index: Int) -> None:
        """Begin to fetch into the L2 cache. The processor does so by itself only within a page."""
        kinds = [POINTER, *[ir.IntType(32)] * 3]
        fetch = self._intrinsic("llvm.prefetch.p0", VOID, kinds)
        place = self.f.builder.gep(base, [index.value], source_etype=self.real)
        reading, l2, data = (ir.Constant(ir.IntType(32), x) for x in (0, 2, 1))
        self.f.builder.call(fetch, [place, reading, l2, data])

    @property
    def _alignment(self) -> int:
        return 4 if self.real == ir.FloatType() else 8

    def _everywhere(self, value: ir.Value) -> ir.Value:
        """Return a vector of one value."""
        b, kind = self.f.builder, ir.VectorType(value.type, self.lanes)
        nothing = ir.Constant(kind, ir.Undefined)
        first = b.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return b.shuffle_vector(first, nothing, zeros)

    def _inside(self, columns: Int) -> ir.Value:
        """Return which lanes are less than ``columns``."""
        lanes = ir.Constant(ir.VectorType(INT, self.lanes), list(range(self.lanes)))
        return self.f.builder.icmp_signed("<", lanes, self._everywhere(columns.value))

    def _masked_load(self, place: ir.Value, mask: ir.Value) -> ir.Value:
        zeros = ir.Constant(self.vector, [0.0] * self.lanes)
        return self._masked("load", self.vector, [place, self._bytes(), mask, zeros])

    def _masked_store(self, value: ir.Value, place: ir.Value, mask: ir.Value) -> None:
        self._masked("store", VOID, [value, place, self._bytes(), mask])

    def _bytes(self) -> ir.Constant:
        return ir.Constant(ir.IntType(32), self._alignment)

    def _masked(self, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
        number = "f32" if self.real == ir.FloatType() else "f64"
        kinds = [argument.type for argument in arguments]
        return self.f.builder.call(
            self._intrinsic(f"llvm.masked.{name}.v{self.lanes}{number}.p0", result, kinds), arguments
        )

    def _intrinsic(self, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        known = self.module.globals.get(name)
        return known or ir.Function(self.module, ir.FunctionType(result, kinds), name)
