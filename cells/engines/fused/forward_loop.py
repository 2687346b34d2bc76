"""The forward loop over time."""

from __future__ import annotations

from cells.engines.fused.code import Int
from cells.engines.fused.loop import Loop


class ForwardLoop(Loop):
    """Computes y and the last leaves, and keeps what the backward loop needs."""

    def emit(self) -> None:
        f = self.f
        leaves = range(len(self.schedule.leaves))
        for i in leaves:
            f.copy(self.leaf(i, f.int(0)), self.read(f"first_leaf{i}"), self.leaf_size(i))
        with f.loop((self.steps + self.chunk - 1) // self.chunk) as index:
            start = index * self.chunk
            steps = (self.steps - start).least(self.chunk)
            self.gather(start, steps)
            for i in range(len(self.schedule.accumulators)):
                self.multiply_sequences(i, self.accumulator(i, start), steps)
            for i, kept in enumerate(self.unit.kept.leaves):
                if not kept:
                    starts = self.read(f"starts{i}")
                    with f.when_set(starts):
                        f.copy(starts + index * self.leaf_size(i), self.leaf(i, start), self.leaf_size(i))
            with f.loop(steps) as k:
                self.step(start + k)
        for i in leaves:
            f.copy(self.read(f"last_leaf{i}"), self.leaf(i, self.steps), self.leaf_size(i))
        f.finish()

    def step(self, t: Int) -> None:
        for stage, kernel in enumerate(self.kernels):
            for i, accumulator in enumerate(self.schedule.accumulators):
                if accumulator.stage == stage:
                    self.multiply_state(i, t)
            self.run(kernel, stage, self.arrays(t))

    def multiply_state(self, i: int, t: Int) -> None:
        """Compute the products of accumulator ``i`` with the state."""
        accumulator = self.schedule.accumulators[i]
        columns = self.width(f"accumulator{i}")
        started = bool(accumulator.by_time)
        if accumulator.bias is not None:
            bias, size = self.read(f"bias{i}"), columns * self.size
            with self.f.loop(self.rows) as row:
                self.f.copy(self.accumulator(i, t) + row * size, bias, size)
            started = True
        for product in accumulator.by_step:
            operand = product.operand
            width = self.width(f"{operand.kind}{operand.index}")
            a = self.leaf(operand.index, t) if operand.kind == "leaf" else self.read(f"value{operand.index}")
            sizes = self.rows, columns, width
            self.multiply(sizes, a, width, f"matrix{product.matrix}", self.accumulator(i, t), started)
            started = True

    def accumulator(self, i: int, t: Int) -> Int:
        step = t % self.read(f"period_accumulator{i}")
        return self.at(self.read(f"accumulator{i}"), step, self.width(f"accumulator{i}"))

    def leaf(self, i: int, t: Int) -> Int:
        """Return the address of a leaf before step t."""
        return self.read(f"leaf{i}") + t % self.read(f"period_leaf{i}") * self.leaf_size(i)

    def leaf_size(self, i: int) -> Int:
        """Return the bytes of a leaf at one step."""
        return self.rows * self.width(f"leaf{i}") * self.schedule.leaves[i].dtype.itemsize

    def arrays(self, t: Int) -> dict[str, tuple[Int, Int]]:
        arrays = self.shared_arrays(t)
        for i in range(len(self.schedule.leaves)):
            arrays[f"leaf{i}"] = (self.leaf(i, t), self.width(f"leaf{i}"))
            arrays[f"next_leaf{i}"] = (self.leaf(i, t + 1), self.width(f"leaf{i}"))
        for i in range(len(self.schedule.accumulators)):
            arrays[f"accumulator{i}"] = (self.accumulator(i, t), self.width(f"accumulator{i}"))
        for v in range(len(self.schedule.values)):
            arrays[f"value{v}"] = (self.read(f"value{v}"), self.width(f"value{v}"))
        width = self.width("y")
        arrays["y"] = (self.read("y") + t * width * self.size, self.steps * width)
        return arrays
