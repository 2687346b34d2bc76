"""Machine code for a whole sequence: the loop over time, with its products and kernels, forward and backward.

Each function works on a block of rows. Everything of a step lies in memory as [step][row][feature], so that the rows
of several steps are one matrix; x and y are batch first. Steps are computed in chunks: the products with sequences are
one product a chunk, and so are the gradients of the weights. The backward pass goes through the chunks from the last
to the first. What is cheap is not kept for it but computed again: accumulators of narrow sequences, and leaves of the
state without costly functions, which are kept at the start of each chunk.

Names of the parameters: ``rows``, ``steps``, ``chunk``, ``gemm``, ``numbers``; ``width*`` of an array in features;
``period*``, the number of steps for which an array has room; the other names are addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from cells.engines.fused.code import INT, POINTER, VOID, Function, Int, Parameters, new_module
from cells.engines.fused.derivatives import StageExpressions, is_cheap
from cells.engines.fused.expressions import is_number
from cells.engines.fused.kernels import Kernel, Result, emit_kernel
from cells.engines.fused.schedule import Operand, Product, Schedule


@dataclass(frozen=True)
class SequenceCode:
    """Assembly of the functions ``forward`` and ``backward``, and the names of their parameters, in order."""

    text: str
    forward: tuple[str, ...]
    backward: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What the forward pass keeps for the backward pass.

    Attributes:
        leaves: For each leaf of the state, whether it is kept at every step, or only at the start of each chunk.
        accumulators: For each accumulator, whether it is kept at every step, or computed again.
    """

    leaves: tuple[bool, ...]
    accumulators: tuple[bool, ...]


def choose_kept(schedule: Schedule, stages: Sequence[StageExpressions]) -> Kept:
    """Decide what is kept: what takes long to compute again."""
    next_leaves = stages[-1].outputs[1:]
    leaves = tuple(
        not leaf.is_floating_point() or not is_cheap(blocks)
        for leaf, blocks in zip(schedule.leaves, next_leaves, strict=True)
    )
    accumulators = tuple(
        bool(accumulator.by_step)
        or 16 * sum(schedule.sequences[p.operand.index] for p in accumulator.by_time) > accumulator.width
        for accumulator in schedule.accumulators
    )
    return Kept(leaves, accumulators)


def generate(schedule: Schedule, stages: Sequence[StageExpressions], kept: Kept, single: bool) -> SequenceCode:
    """Write the code of a step.

    Args:
        schedule: The step.
        stages: Its stages.
        kept: What is kept.
        single: Whether numbers are float32 instead of float64.
    """
    return _Writer(schedule, stages, kept, single).write()


class _Writer:
    def __init__(self, schedule: Schedule, stages: Sequence[StageExpressions], kept: Kept, single: bool) -> None:
        self.schedule = schedule
        self.stages = stages
        self.kept = kept
        self.real = ir.FloatType() if single else ir.DoubleType()
        self.size = 4 if single else 8
        self.module = new_module()
        self.product = _emit_product(self.module, self.real)
        self.last = len(stages) - 1
        self.gathered = sorted({p.operand.index for a in schedule.accumulators for p in a.by_time})
        self.biased = {  # sequences with a feature that is always 1, whose weight is the bias
            a.by_time[0].operand.index for a in schedule.accumulators if a.bias_row
        }

    def write(self) -> SequenceCode:
        kernels = [self._forward_kernel(k) for k in range(len(self.stages))]
        forward = _Forward(self, "forward", kernels)
        forward.emit()
        backward = _Backward(self, "backward", *self._backward_kernels())
        backward.emit()
        return SequenceCode(str(self.module), tuple(forward.parameters.names), tuple(backward.parameters.names))

    def _forward_kernel(self, k: int) -> Kernel:
        if k < self.last:
            names = [f"value{v}" for v in self.schedule.stages[k].values]
        else:
            names = ["y", *(f"next_leaf{i}" for i in range(len(self.schedule.leaves)))]
        outputs = zip(names, self.stages[k].outputs, strict=True)
        results = [Result(name, tuple(blocks)) for name, blocks in outputs]
        return emit_kernel(self.module, self.real, f"forward{k}", results)

    def _backward_kernels(self) -> tuple[list[Kernel], Kernel | None, set[str]]:
        """The kernels of the stages, the one that computes leaves again, and what products must set instead of add."""
        again = [
            Result(f"next_leaf{i}", tuple(self.stages[-1].outputs[1 + i]))
            for i, kept in enumerate(self.kept.leaves)
            if not kept
        ]
        recompute = emit_kernel(self.module, self.real, "again", again) if again else None
        written: set[str] = set()
        unset: set[str] = set()
        kernels: list[Kernel] = []
        for k in range(self.last, -1, -1):
            results = []
            for name, blocks in self.stages[k].gradients.items():
                nothing = all(is_number(x, 0) for x in blocks)
                by_product = name.startswith("leaf") and self.last == 0 and self._multiplied(name)
                if nothing and (name in written or by_product or not name.startswith(("leaf", "accumulator"))):
                    if by_product:
                        unset.add(f"d{name}")
                    continue
                added = name in written or name.startswith("parameter")
                results.append(Result(f"d{name}", tuple(blocks), "add" if added else "store"))
                written.add(name)
            for v in self.schedule.stages[k].values:  # its operands, for the gradients of the weights
                blocks = self.stages[k].outputs[self.schedule.stages[k].values.index(v)]
                results.append(Result(f"value{v}", tuple(blocks)))
            kernels.insert(0, emit_kernel(self.module, self.real, f"backward{k}", results))
        return kernels, recompute, unset

    def _multiplied(self, leaf: str) -> bool:
        operand = Operand("leaf", int(leaf.removeprefix("leaf")))
        return any(product.operand == operand for a in self.schedule.accumulators for product in a.products)


class _Pass:
    """What both passes have in common."""

    def __init__(self, writer: _Writer, name: str, kernels: Sequence[Kernel]) -> None:
        self.writer = writer
        self.schedule = writer.schedule
        self.kernels = kernels
        self.f = Function(writer.module, name, [POINTER], public=True)
        self.parameters = Parameters()
        self.size = writer.size
        self.rows, self.steps, self.chunk = (self.read(name) for name in ("rows", "steps", "chunk"))
        self.set_of_step: set[str] = set()

    def read(self, name: str) -> Int:
        return self.parameters.read(self.f, name)

    def width(self, name: str) -> Int:
        return self.read(f"width_{name}")

    def at(self, base: Int, step: Int, width: Int) -> Int:
        """The address of a step in an array [step][row][feature]."""
        return base + step * self.rows * width * self.size

    def gemm(
        self, transposed: bool, sizes: tuple[Int, Int, Int], a: Int, b: Int, b_stride: Int, c: Int, add: bool
    ) -> None:
        """c (m, n) = a (m, k) b (k, n), or added to c; ``transposed``: a lies in memory as (k, m)."""
        m, n, k = sizes
        f = self.f
        flags = f.int(int(transposed)), f.int(int(add))
        f.call(self.writer.product, [self.read("gemm"), *flags, m, n, k, a, m if transposed else k, b, b_stride, c])

    def gather(self, start: Int, steps: Int) -> None:
        """Copy a chunk of the sequences that are multiplied, with a 1 where a bias is a weight of it."""
        f, size = self.f, self.size
        for q in self.writer.gathered:
            width, source, to = self.width(f"sequence{q}"), self.read(f"sequence{q}"), self.read(f"gathered{q}")
            full = width + 1 if q in self.writer.biased else width
            with f.loop(steps) as k, f.loop(self.rows) as row:
                place = to + (k * self.rows + row) * full * size
                f.copy(place, source + (row * self.steps + start + k) * width * size, width * size)
                if q in self.writer.biased:
                    one = ir.Constant(self.writer.real, 1.0)
                    f.builder.store(one, f.builder.inttoptr((place + width * size).value, POINTER))

    def multiply_sequences(self, i: int, to: Int, steps: Int) -> None:
        """The products of accumulator ``i`` with sequences, for a chunk."""
        accumulator = self.schedule.accumulators[i]
        columns = self.width(f"accumulator{i}")
        for place, product in enumerate(accumulator.by_time):
            q = product.operand.index
            biased = accumulator.bias_row and place == 0
            depth = self.width(f"sequence{q}") + 1 if biased else self.width(f"sequence{q}")
            stride = self.width(f"sequence{q}") + 1 if q in self.writer.biased else self.width(f"sequence{q}")
            sizes = steps * self.rows, columns, depth
            f = self.f
            flags = f.int(0), f.int(int(place > 0))
            matrix = self.read(f"matrix{product.matrix}")
            arguments = [*sizes, self.read(f"gathered{q}"), stride, matrix, columns, to]
            f.call(self.writer.product, [self.read("gemm"), *flags, *arguments])

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
        """Sequences and parameters, as kernels take them."""
        arrays = {}
        for q in self.schedule.read:
            width = self.width(f"sequence{q}")
            arrays[f"sequence{q}"] = (self.read(f"sequence{q}") + t * width * self.size, self.steps * width)
        for i in range(len(self.schedule.parameters)):
            arrays[f"parameter{i}"] = (self.read(f"parameter{i}"), self.f.int(0))
        return arrays


class _Forward(_Pass):
    def emit(self) -> None:
        f = self.f
        with f.loop((self.steps + self.chunk - 1) // self.chunk) as index:
            start = index * self.chunk
            steps = (self.steps - start).least(self.chunk)
            self.gather(start, steps)
            for i in range(len(self.schedule.accumulators)):
                self.multiply_sequences(i, self.accumulator(i, start), steps)
            for i, kept in enumerate(self.writer.kept.leaves):
                if not kept:
                    starts = self.read(f"starts{i}")
                    with f.when_set(starts):
                        width = self.width(f"leaf{i}")
                        f.copy(self.at(starts, index, width), self.leaf(i, start), self.rows * width * self.size)
            with f.loop(steps) as k:
                self.step(start + k)
        f.finish()

    def step(self, t: Int) -> None:
        for stage, kernel in enumerate(self.kernels):
            for i, accumulator in enumerate(self.schedule.accumulators):
                if accumulator.stage == stage:
                    self.multiply_state(i, t)
            self.run(kernel, stage, self.arrays(t))

    def multiply_state(self, i: int, t: Int) -> None:
        """The products of accumulator ``i`` with the state."""
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
            matrix = self.read(f"matrix{product.matrix}")
            self.gemm(False, (self.rows, columns, width), a, matrix, columns, self.accumulator(i, t), started)
            started = True

    def accumulator(self, i: int, t: Int) -> Int:
        step = t % self.read(f"period_accumulator{i}")
        return self.at(self.read(f"accumulator{i}"), step, self.width(f"accumulator{i}"))

    def leaf(self, i: int, t: Int) -> Int:
        """The address of a leaf before step t."""
        step = t % self.read(f"period_leaf{i}")
        base, width = self.read(f"leaf{i}"), self.width(f"leaf{i}")
        return (
            self.at(base, step, width) if self.schedule.leaves[i].is_floating_point() else base + step * self.rows * 8
        )

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


class _Backward(_Pass):
    def __init__(
        self, writer: _Writer, name: str, kernels: Sequence[Kernel], again: Kernel | None, unset: set[str]
    ) -> None:
        super().__init__(writer, name, kernels)
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
        for i, kept in enumerate(self.writer.kept.accumulators):
            if not kept:
                self.multiply_sequences(i, self.read(f"accumulator{i}"), steps)
        if self.again is None:
            return
        for i, kept in enumerate(self.writer.kept.leaves):
            if not kept:
                width = self.width(f"leaf{i}")
                size = self.rows * width * self.size
                f.copy(self.read(f"leaf{i}"), self.at(self.read(f"starts{i}"), index, width), size)
        with f.loop(steps - 1) as k:
            self.run(self.again, self.writer.last, self.arrays(start + k, k))

    def step(self, t: Int, k: Int) -> None:
        set_values: set[int] = set()
        arrays = self.arrays(t, k)
        for stage in range(self.writer.last, -1, -1):
            self.run(self.kernels[stage], stage, arrays)
            for i, accumulator in enumerate(self.schedule.accumulators):
                if accumulator.stage != stage:
                    continue
                for product in accumulator.by_step:
                    self.back_through(i, product, k, set_values)

    def back_through(self, i: int, product: Product, k: Int, set_values: set[int]) -> None:
        """The gradient of an operand."""
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
        transposed = self.read(f"transposed{product.matrix}")
        self.gemm(False, (self.rows, width, depth), d, transposed, width, self.read(name), add)

    def weight_gradients(self, start: Int, steps: Int) -> None:
        f = self.f
        count = steps * self.rows
        for i, accumulator in enumerate(self.schedule.accumulators):
            columns, d = self.width(f"accumulator{i}"), self.read(f"daccumulator{i}")
            if accumulator.bias is not None:
                gradient = self.read(f"dbias{i}")
                with f.when_set(gradient):
                    self.gemm(False, (f.int(1), columns, count), self.read("ones"), d, columns, gradient, True)
            for place, product in enumerate(accumulator.products):
                operand, gradient = product.operand, self.read(f"dmatrix{product.matrix}")
                with f.when_set(gradient):
                    if operand.kind != "sequence":
                        width = self.width(f"{operand.kind}{operand.index}")
                        a = self.operand_over_time(operand, start)
                        self.gemm(True, (width, columns, count), a, d, columns, gradient, True)
                        continue
                    q = operand.index
                    width = self.width(f"sequence{q}")
                    stride = width + 1 if q in self.writer.biased else width
                    depth = width + 1 if accumulator.bias_row and place == 0 else width
                    sizes = depth, columns, count
                    flags = f.int(1), f.int(1)
                    arguments = [*sizes, self.read(f"gathered{q}"), stride, d, columns, gradient]
                    f.call(self.writer.product, [self.read("gemm"), *flags, *arguments])

    def operand_over_time(self, operand: Operand, start: Int) -> Int:
        if operand.kind == "value":
            return self.read(f"value{operand.index}")
        i = operand.index
        base = self.read(f"leaf{i}")
        return self.at(base, start, self.width(f"leaf{i}")) if self.writer.kept.leaves[i] else base

    def sequence_gradients(self, start: Int, steps: Int) -> None:
        """The gradients of sequences by products; what stages read of them has been written before."""
        f, b, size = self.f, self.f.builder, self.size
        for q in self.writer.gathered:
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
                        transposed = self.read(f"transposed{product.matrix}")
                        stride = self.read(f"stride_transposed{product.matrix}")
                        sizes = steps * self.rows, width, depth
                        flags = f.int(0), f.int(int(started))
                        arguments = [*sizes, d, depth, transposed, stride, chunk]
                        f.call(self.writer.product, [self.read("gemm"), *flags, *arguments])
                        started = True
                with f.loop(steps) as k, f.loop(self.rows) as row:
                    source = chunk + (k * self.rows + row) * width * size
                    to = gradient + (row * self.steps + start + k) * width * size
                    if q not in self.schedule.read:
                        f.copy(to, source, width * size)
                        continue
                    with f.loop(width) as j:
                        places = [b.inttoptr((base + j * size).value, POINTER) for base in (to, source)]
                        here, more = (b.load(place, typ=self.writer.real) for place in places)
                        b.store(b.fadd(here, more), places[0])

    def arrays(self, t: Int, k: Int) -> dict[str, tuple[Int, Int]]:
        arrays = self.shared_arrays(t)
        for i, leaf in enumerate(self.schedule.leaves):
            width, base = self.width(f"leaf{i}"), self.read(f"leaf{i}")
            if not leaf.is_floating_point():
                arrays[f"leaf{i}"] = (base + t * self.rows * 8, width)
                continue
            kept = self.writer.kept.leaves[i]
            arrays[f"leaf{i}"] = (self.at(base, t if kept else k, width), width)
            arrays[f"next_leaf{i}"] = (self.at(base, (t if kept else k) + 1, width), width)
            arrays[f"dleaf{i}"] = (self.read(f"dleaf{i}"), width)
        for i, kept in enumerate(self.writer.kept.accumulators):
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


def _emit_product(module: ir.Module, real: ir.Type) -> ir.Function:
    """product(gemm, transposed, add, m, n, k, a, a_stride, b, b_stride, c): C (m, n) = A (m, k) B (k, n), by rows.

    BLAS counts by columns, so it computes the transposed product.
    """
    f = Function(module, "product", [INT] * 11)
    f.function.attributes.add("noinline")
    b = f.builder
    gemm, transposed, add, m, n, k, a, a_stride, right, right_stride, c = f.function.args
    i8, i32 = ir.IntType(8), ir.IntType(32)

    def place(value: ir.Value) -> ir.Value:
        slot = f.at_entry(lambda entry: entry.alloca(value.type))
        b.store(value, slot)
        return slot

    def choose(condition: ir.Value, yes: ir.Constant, no: ir.Constant) -> ir.Value:
        return b.select(b.icmp_unsigned("!=", condition, ir.Constant(INT, 0)), yes, no)

    plain, turned = ir.Constant(i8, ord("N")), ir.Constant(i8, ord("T"))
    zero, one = ir.Constant(real, 0.0), ir.Constant(real, 1.0)
    sizes = [place(b.trunc(value, i32)) for value in (n, m, k)]
    strides = [place(b.trunc(value, i32)) for value in (right_stride, a_stride, n)]
    addresses = [b.inttoptr(value, POINTER) for value in (right, a, c)]
    arguments = [place(plain), place(choose(transposed, turned, plain)), *sizes, place(one)]
    arguments += [addresses[0], strides[0], addresses[1], strides[1], place(choose(add, one, zero))]
    arguments += [addresses[2], strides[2]]
    kind = ir.FunctionType(VOID, [POINTER] * len(arguments))
    b.call(b.inttoptr(gemm, kind.as_pointer()), arguments)
    return f.finish()
