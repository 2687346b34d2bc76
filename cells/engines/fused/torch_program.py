"""The stages of a schedule as graphs of torch operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from cells.engines.fused.derivatives import COSTLY, trace_derivative
from cells.engines.fused.graphs import Run, extract, needed_by, operation
from cells.engines.fused.schedule import Schedule
from cells.engines.fused.torch_rewrites import is_zero, rewrite

KEPT = COSTLY | {"rsqrt"}  # operations whose results are kept for the backward pass


@dataclass(frozen=True)
class TensorStage:
    """A stage for tensors.

    Attributes:
        arguments: Names of what the stage reads.
        outputs: Names of what the stage computes.
        written: Those that it writes into given tensors, with examples: all, but not y if a leaf is the same.
        same: That leaf, if any.
        kept: Examples of the costly values to keep.
        forward: Takes the arguments, then tensors for what it writes and keeps; gives the outputs, then what it keeps.
        read: Names of the arguments that the backward pass needs; of outputs with ``next_``.
        prepare: Takes the kept values and these arguments; gives the factors of the gradients.
        seeds: Names of the outputs that have gradients.
        back: Takes the gradients of these, the factors, and tensors into which it writes the gradients of what is no
            leaf; gives the gradients of ``gradients``.
        gradients: Names of the arguments whose gradient is not zero.
    """

    arguments: list[str]
    outputs: list[str]
    written: dict[str, Tensor]
    same: str | None
    kept: list[Tensor]
    forward: Run
    read: list[str]
    prepare: Run
    seeds: list[str]
    back: Run
    gradients: list[str]

    def factors(self, kept: list[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
        return self.prepare(*kept, *[named[name] for name in self.read])


class TensorProgram:
    """A schedule whose stages run as torch operations.

    Attributes:
        stages: The stages.
        kept: Names of the leaves, accumulators and outputs that the backward pass needs at each step.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.stages = [_split(schedule, index) for index in range(len(schedule.stages))]
        operands = [product.operand for accumulator in schedule.accumulators for product in accumulator.by_step]
        names = [f"{operand.kind}{operand.index}" for operand in operands]
        names += [name for stage in self.stages for name in stage.read]
        self.kept = [name for name in dict.fromkeys(names) if not name.startswith(("sequence", "parameter", "number"))]


def _split(schedule: Schedule, index: int) -> TensorStage:
    """Divide the graph of a derivative by what depends on the gradients."""
    derivative = trace_derivative(schedule, index)
    graph, rows = derivative.graph, schedule.rows
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    cut = len(placeholders) - len(derivative.real_outputs)
    inputs, seeds = placeholders[:cut], placeholders[cut:]
    names = [*derivative.real, *derivative.counts, *(f"number{i}" for i in range(len(schedule.numbers)))]
    rewrite(graph, seeds)
    results = tree_leaves(next(node for node in graph.nodes if node.op == "output").args[0])
    outputs = results[: len(derivative.outputs)]
    gradients = dict(zip(derivative.real, results[len(outputs) :], strict=True))
    gradients = {name: x for name, x in gradients.items() if not (name.startswith("leaf") and is_zero(x))}
    late: set[fx.Node] = set(seeds)
    for node in graph.nodes:
        if any(source in late for source in node.all_input_nodes):
            late.add(node)
    needed = needed_by(graph, list(gradients.values()))
    early = {
        source: None
        for node in graph.nodes
        if node in late and node in needed
        for source in node.all_input_nodes
        if source not in late
    }
    early |= {node: None for node in gradients.values() if node not in late}
    found = [*derivative.real_outputs, *(name for name in derivative.outputs if name not in derivative.real_outputs)]
    computed = dict(zip(found, outputs, strict=True))
    same = next((name for name in computed if name.startswith("leaf") and computed[name] is computed.get("y")), None)
    written = {name: x for name, x in derivative.outputs.items() if not (name == "y" and same)}
    in_forward = needed_by(graph, outputs)
    costly = [node for node in graph.nodes if node in in_forward and operation(node) in KEPT and _by_row(node, rows)]
    in_prepare = needed_by(graph, list(early), [*costly, *outputs])
    kept = [node for node in costly if node in in_prepare and node not in outputs]
    read = [(name, node) for name, node in zip(names, inputs, strict=True) if node in in_prepare]
    after = {computed[name]: f"next_{name}" for name in written if computed[name] not in inputs}
    read += [(name, node) for node, name in after.items() if node in in_prepare]
    read.sort(key=lambda entry: not _by_row(entry[1], rows))  # the first argument tells the number of rows
    places = [*(found.index(name) for name in written), *range(len(found), len(found) + len(kept))]
    written_gradients = [place for place, name in enumerate(gradients) if not name.startswith("leaf")]
    return TensorStage(
        names,
        found,
        written,
        same,
        [node.meta["val"] for node in kept],
        extract(graph, inputs, [*outputs, *kept], rows, places),
        [name for name, _ in read],
        extract(graph, [*kept, *(node for _, node in read)], list(early), rows),
        list(derivative.real_outputs),
        extract(graph, [*seeds, *early], list(gradients.values()), rows, written_gradients),
        list(gradients),
    )


def _by_row(node: fx.Node, rows: int) -> bool:
    shape = node.meta["val"].shape
    return len(shape) > 0 and shape[0] == rows
