"""Machine code for a whole sequence: the functions ``forward`` and ``backward``, each for a block of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cells.engines.fused.backward_loop import BackwardLoop
from cells.engines.fused.derivatives import StageExpressions
from cells.engines.fused.expressions import is_number
from cells.engines.fused.forward_loop import ForwardLoop
from cells.engines.fused.kept import Kept
from cells.engines.fused.kernels import Kernel, Result, emit_kernel
from cells.engines.fused.loop import Unit
from cells.engines.fused.schedule import Operand, Schedule


@dataclass(frozen=True)
class SequenceCode:
    """Assembly of the functions ``forward`` and ``backward``, and the names of their parameters, in order."""

    text: str
    forward: tuple[str, ...]
    backward: tuple[str, ...]


def generate(schedule: Schedule, stages: Sequence[StageExpressions], kept: Kept, single: bool) -> SequenceCode:
    """Return the code of a step.

    Args:
        schedule: The step.
        stages: Its stages.
        kept: What is kept.
        single: Whether numbers are float32 instead of float64.
    """
    return _Writer(Unit(schedule, kept, single), stages).write()


class _Writer:
    def __init__(self, unit: Unit, stages: Sequence[StageExpressions]) -> None:
        self.unit = unit
        self.schedule = unit.schedule
        self.stages = stages

    def write(self) -> SequenceCode:
        kernels = [self._forward_kernel(k) for k in range(len(self.stages))]
        forward = ForwardLoop(self.unit, "forward", kernels)
        forward.emit()
        backward = BackwardLoop(self.unit, "backward", *self._backward_kernels())
        backward.emit()
        return SequenceCode(str(self.unit.module), tuple(forward.parameters.names), tuple(backward.parameters.names))

    def _forward_kernel(self, k: int) -> Kernel:
        if k < self.unit.last:
            names = [f"value{v}" for v in self.schedule.stages[k].values]
        else:
            names = ["y", *(f"next_leaf{i}" for i in range(len(self.schedule.leaves)))]
        outputs = zip(names, self.stages[k].outputs, strict=True)
        results = [Result(name, tuple(blocks)) for name, blocks in outputs]
        return emit_kernel(self.unit.module, self.unit.real, f"forward{k}", results)

    def _backward_kernels(self) -> tuple[list[Kernel], Kernel | None, set[str]]:
        """Return the kernels of the stages, the one that computes leaves again, and what products must set."""
        again = [
            Result(f"next_leaf{i}", tuple(self.stages[-1].outputs[1 + i]))
            for i, kept in enumerate(self.unit.kept.leaves)
            if not kept
        ]
        recompute = emit_kernel(self.unit.module, self.unit.real, "again", again) if again else None
        written: set[str] = set()
        unset: set[str] = set()
        kernels: list[Kernel] = []
        for k in range(self.unit.last, -1, -1):
            results = []
            for name, blocks in self.stages[k].gradients.items():
                nothing = all(is_number(x, 0) for x in blocks)
                by_product = name.startswith("leaf") and self.unit.last == 0 and self._multiplied(name)
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
            kernels.insert(0, emit_kernel(self.unit.module, self.unit.real, f"backward{k}", results))
        return kernels, recompute, unset

    def _multiplied(self, leaf: str) -> bool:
        operand = Operand("leaf", int(leaf.removeprefix("leaf")))
        return any(product.operand == operand for a in self.schedule.accumulators for product in a.products)
