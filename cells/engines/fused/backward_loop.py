"""The backward loop over time: gradients of weights, sequences and the state.

It goes through the chunks from the last to the first. The gradients of the weights are one product a chunk. What is
cheap is not kept for it but computed again: accumulators of narrow sequences, and leaves of the state without costly
functions, which are kept at the start of each chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

from cells.engines.fused.code import POINTER, Int
from cells.engines.fused.kernels import Kernel
from cells.engines.fused.loop import Loop, Unit
from cells.engines.fused.schedule import Operand, Product


class BackwardLoop(Loop):
    """Computes the gradients.

    Args:
        unit: The module.
        name: Name of the function.
        kernels: The derivative of each stage.
        again: The kernel that computes leaves again, or None if all are kept.
        unset: Gradients that the kernels do not write, so that the first product sets them instead of adding.
    """

    def __init__(self, unit: Unit, name: str, kernels: Sequence[Kernel], again: Kernel | None, unset: set[str]) -> None:
        super().__init__(unit, name, kernels)
        self.again = again
        self.unset = unset

    def emit(self) -> None:
        f = self.f
        with f.loop((self.steps + self.chunk - 1) // self.chunk, backwards=True) as index:
            start = index * self.chunk
            steps = (self.steps - start).least(self.chunk)
            self.gather(start, steps)
            self.recompute(index, start, steps)
            with f.loop(steps, backwards=True) as k:
                self.step(start + k, k)
            self.weight_gradients(start, steps)
            self.sequence_gradients(start, steps)
        f.finish()

    def recompute(self, index: Int, start: Int, steps: Int) -> None:
        f = self.f
        for i, kept in enumerate(self.unit.kept.accumulators):
            if not kept:
                self.multiply_sequences(i, self.read(f"accumulator{i}"), steps)
        if self.again is None:
            return
        for i, kept in enumerate(self.unit.kept.leaves):
            if not kept:
                width = self.width(f"leaf{i}")
                size = self.rows * width * self.size
                f.copy(self.read(f"leaf{i}"), self.at(self.read(f"starts{i}"), index, width), size)
        with f.loop(steps - 1) as k:
            self.run(self.again, self.unit.last, self.arrays(start + k, k))

    def step(self, t: Int, k: Int) -> None:
        set_values: set[int] = set()
        arrays = self.arrays(t, k)
        for stage in range(self.unit.last, -1, -1):
            self.run(self.kernels[stage], stage, arrays)
            for i, accumulator in enumerate(self.schedule.accumulators):
                if accumulator.stage != stage:
                    continue
                for product in accumulator.by_step:
                    self.back_through(i, product, k, set_values)

    def back_through(self, i: int, product: Product, k: Int, set_values: set[int]) -> None:
        """Compute the gradient of an operand from that of accumulator ``i``."""
        operand, depth = product.operand, self.width(f"accumulator{i}")
        name = f"d{operand.kind}{operand.index}"
        width = self.width(f"{operand.kind}{operand.index}")
        if operand.kind == "leaf":
            add = name not in self.unset
            self.unset.discard(name)
        else:
            add = operand.index in set_values
            set_values.add(operand.index)
        d = self.at(self.read(f"daccumulator{i}"), k, depth)
        sizes = self.rows, width, depth
        self.multiply(sizes, d, depth, f"transposed{product.matrix}", self.read(name), add)

    def weight_gradients(self, start: Int, steps: Int) -> None:
        f = self.f
        count = steps * self.rows
        later = (start + steps).is_less(self.steps)  # 0 in the chunk that comes first
        for i, accumulator in enumerate(self.schedule.accumulators):
            columns, d = self.width(f"accumulator{i}"), self.read(f"daccumulator{i}")
            if accumulator.bias is not None:
                gradient = self.read(f"dbias{i}")
                with f.when_set(gradient):
                    one = f.int(1)
                    self.multiply_transposed((one, columns, count), self.read("ones"), one, d, gradient, later)
            for place, product in enumerate(accumulator.products):
                operand, gradient = product.operand, self.read(f"dmatrix{product.matrix}")
                with f.when_set(gradient):
                    if operand.kind != "sequence":
                        width = self.width(f"{operand.kind}{operand.index}")
                        a = self.operand_over_time(operand, start)
                        self.multiply_transposed((width, columns, count), a, width, d, gradient, later)
                        continue
                    q = operand.index
                    width = self.width(f"sequence{q}")
                    stride = width + 1 if q in self.unit.biased else width
                    depth = width + 1 if accumulator.bias_row and place == 0 else width
                    a = self.read(f"gathered{q}")
                    self.multiply_transposed((depth, columns, count), a, stride, d, gradient, later)

    def operand_over_time(self, operand: Operand, start: Int) -> Int:
        if operand.kind == "value":
            return self.read(f"value{operand.index}")
        i = operand.index
        base = self.read(f"leaf{i}")
        return self.at(base, start, self.width(f"leaf{i}")) if self.unit.kept.leaves[i] else base

    def sequence_gradients(self, start: Int, steps: Int) -> None:
        """Compute the gradients of sequences by products; kernels have written those of what stages read."""
        f, b, size = self.f, self.f.builder, self.size
        for q in self.unit.gathered:
            gradient, width, chunk = (
                self.read(f"dsequence{q}"),
                self.width(f"sequence{q}"),
                self.read(f"dgathered{q}"),
            )
            with f.when_set(gradient):
                started = False
                for i, accumulator in enumerate(self.schedule.accumulators):
                    for product in accumulator.by_time:
                        if product.operand.index != q:
                            continue
                        depth, d = self.width(f"accumulator{i}"), self.read(f"daccumulator{i}")
                        sizes = steps * self.rows, width, depth
                        self.multiply(sizes, d, depth, f"transposed{product.matrix}", chunk, started)
                        started = True
                with f.loop(steps) as k, f.loop(self.rows) as row:
                    source = chunk + (k * self.rows + row) * width * size
                    to = gradient + (row * self.steps + start + k) * width * size
                    if q not in self.schedule.read:
                        f.copy(to, source, width * size)
                        continue
                    with f.loop(width) as j:
                        places = [b.inttoptr((base + j * size).value, POINTER) for base in (to, source)]
                        here, more = (b.load(place, typ=self.unit.real) for place in places)
                        b.store(b.fadd(here, more), places[0])

    def arrays(self, t: Int, k: Int) -> dict[str, tuple[Int, Int]]:
        arrays = self.shared_arrays(t)
        for i, leaf in enumerate(self.schedule.leaves):
            width, base = self.width(f"leaf{i}"), self.read(f"leaf{i}")
            if not leaf.is_floating_point():
                arrays[f"leaf{i}"] = (base + t * self.rows * 8, width)
                continue
            kept = self.unit.kept.leaves[i]
            arrays[f"leaf{i}"] = (self.at(base, t if kept else k, width), width)
            arrays[f"next_leaf{i}"] = (self.at(base, (t if kept else k) + 1, width), width)
            arrays[f"dleaf{i}"] = (self.read(f"dleaf{i}"), width)
        for i, kept in enumerate(self.unit.kept.accumulators):
            width = self.width(f"accumulator{i}")
            arrays[f"accumulator{i}"] = (self.at(self.read(f"accumulator{i}"), t if kept else k, width), width)
            arrays[f"daccumulator{i}"] = (self.at(self.read(f"daccumulator{i}"), k, width), width)
        for v in range(len(self.schedule.values)):
            width = self.width(f"value{v}")
            arrays[f"value{v}"] = (self.at(self.read(f"value{v}"), k, width), width)
            arrays[f"dvalue{v}"] = (self.read(f"dvalue{v}"), width)
        for q in self.schedule.read:
            width = self.width(f"sequence{q}")
            arrays[f"dsequence{q}"] = (self.read(f"dsequence{q}") + t * width * self.size, self.steps * width)
        for i in range(len(self.schedule.parameters)):
            arrays[f"dparameter{i}"] = (self.read(f"dparameter{i}"), self.f.int(0))
        width = self.width("y")
        arrays["dy"] = (self.read("dy") + t * width * self.size, self.steps * width)
        return arrays
