"""What the forward and the backward loop over time have in common.

Everything of a step lies in memory as [step][row][feature], so that the rows of several steps are one matrix; x and y
are batch first. Steps are computed in chunks: the products with sequences are one product a chunk.

Names of the parameters: ``rows``, ``steps``, ``chunk``; ``width*`` of an array in features; ``period*``, the number of
steps for which an array has room; ``panel*`` of a packed matrix in numbers; the other names are addresses.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from cells.engines.fused.code import POINTER, Function, Int, Parameters, new_module
from cells.engines.fused.kept import Kept
from cells.engines.fused.kernels import Kernel
from cells.engines.fused.schedule import Schedule


class Unit:
    """The module that is being written, and what is known of the step.

    Args:
        schedule: The step.
        kept: What is kept for the backward pass.
        single: Whether numbers are float32 instead of float64.

    Attributes:
        real: The type of a number.
        size: Its bytes.
        last: The last stage.
        gathered: Sequences that are multiplied.
        biased: Those of them with a feature that is always 1, whose weight is the bias.
    """

    def __init__(self, schedule: Schedule, kept: Kept, single: bool) -> None:
        self.schedule = schedule
        self.kept = kept
        self.real = ir.FloatType() if single else ir.DoubleType()
        self.size = 4 if single else 8
        self.module = new_module()
        self.last = len(schedule.stages) - 1
        self.gathered = sorted({p.operand.index for a in schedule.accumulators for p in a.by_time})
        self.biased = {a.by_time[0].operand.index for a in schedule.accumulators if a.bias_row}


class Loop:
    """A function that goes through the steps of a block of rows.

    Args:
        unit: The module.
        name: Name of the function.
        kernels: The pointwise part of each stage.
    """

    def __init__(self, unit: Unit, name: str, kernels: Sequence[Kernel]) -> None:
        self.unit = unit
        self.schedule = unit.schedule
        self.kernels = kernels
        self.f = Function(unit.module, name, [POINTER], public=True)
        self.parameters = Parameters()
        self.size = unit.size
        self.rows, self.steps, self.chunk = (self.read(name) for name in ("rows", "steps", "chunk"))

    def read(self, name: str) -> Int:
        return self.parameters.read(self.f, name)

    def width(self, name: str) -> Int:
        return self.read(f"width_{name}")

    def at(self, base: Int, step: Int, width: Int) -> Int:
        """Return the address of a step in an array [step][row][feature]."""
        return base + step * self.rows * width * self.size

    def multiply(self, sizes: tuple[Int, Int, Int], a: Int, a_stride: Int, matrix: str, c: Int, add: bool) -> None:
        """Compute c (m, n) = a (m, k) matrix (k, n), or add it to c."""
        packed = self.read(matrix), self.read(f"panel_{matrix}")
        self.f.call_at(self.read("product"), [self.f.int(int(add)), *sizes, a, a_stride, *packed, c])

    def multiply_transposed(self, sizes: tuple[Int, Int, Int], a: Int, a_stride: Int, b: Int, c: Int, add: Int) -> None:
        """Compute c (m, n) = aᵀ b, where a is in memory as (k, m), and b as (k, n); or add it to c if ``add`` is 1."""
        self.f.call_at(self.read("transposed_product"), [add, *sizes, a, a_stride, b, sizes[1], c])

    def gather(self, start: Int, steps: Int) -> None:
        """Copy a chunk of the sequences that are multiplied, with a 1 where a bias is a weight of it."""
        f, size = self.f, self.size
        for q in self.unit.gathered:
            width, source, to = self.width(f"sequence{q}"), self.read(f"sequence{q}"), self.read(f"gathered{q}")
            full = width + 1 if q in self.unit.biased else width
            with f.loop(steps) as k, f.loop(self.rows) as row:
                place = to + (k * self.rows + row) * full * size
                f.copy(place, source + (row * self.steps + start + k) * width * size, width * size)
                if q in self.unit.biased:
                    one = ir.Constant(self.unit.real, 1.0)
                    f.builder.store(one, f.builder.inttoptr((place + width * size).value, POINTER))

    def multiply_sequences(self, i: int, to: Int, steps: Int) -> None:
        """Compute the products of accumulator ``i`` with sequences, for a chunk."""
        accumulator = self.schedule.accumulators[i]
        columns = self.width(f"accumulator{i}")
        for place, product in enumerate(accumulator.by_time):
            q = product.operand.index
            biased = accumulator.bias_row and place == 0
            depth = self.width(f"sequence{q}") + 1 if biased else self.width(f"sequence{q}")
            stride = self.width(f"sequence{q}") + 1 if q in self.unit.biased else self.width(f"sequence{q}")
            sizes = steps * self.rows, columns, depth
            self.multiply(sizes, self.read(f"gathered{q}"), stride, f"matrix{product.matrix}", to, place > 0)

    def run(self, kernel: Kernel, stage: int, arrays: dict[str, tuple[Int, Int]]) -> None:
        """Call a kernel with its arrays."""
        f, b = self.f, self.f.builder
        units = self.read(f"units{stage}")
        arguments: list[ir.Value] = [
            self.rows.value,
            units.value,
            b.inttoptr(self.read("numbers").value, POINTER),
        ]
        for name, block in kernel.blocks:
            address, stride = arrays[name]
            arguments += [b.inttoptr((address + units * (block * self.size)).value, POINTER), stride.value]
        f.builder.call(kernel.function, arguments)

    def shared_arrays(self, t: Int) -> dict[str, tuple[Int, Int]]:
        """Return address and row stride of sequences and parameters."""
        arrays = {}
        for q in self.schedule.read:
            width = self.width(f"sequence{q}")
            arrays[f"sequence{q}"] = (self.read(f"sequence{q}") + t * width * self.size, self.steps * width)
        for i in range(len(self.schedule.parameters)):
            arrays[f"parameter{i}"] = (self.read(f"parameter{i}"), self.f.int(0))
        return arrays
