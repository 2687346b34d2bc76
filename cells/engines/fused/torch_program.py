"""The stages of a schedule as graphs of torch operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from cells.engines.fused.derivatives import COSTLY, trace_derivative
from cells.engines.fused.graphs import Run, extract, needed_by, operation
from cells.engines.fused.schedule import Schedule
from cells.engines.fused.torch_rewrites import FactorCollector, is_zero, merge_pieces


@dataclass(frozen=True)
class TensorStage:
    """A stage for tensors.

    Attributes:
        arguments: Names of what the stage reads.
        forward: Takes the arguments; gives the outputs in the order ``order``, then costly values to keep.
        order: Where each output of the stage is.
        read: Names of the arguments that the backward pass needs.
        prepare: Takes the kept values and these arguments; gives the factors of the gradients.
        seeds: Names of the outputs that have gradients.
        back: Takes the gradients of these, and the factors; gives the gradients of ``gradients``.
        gradients: Names of the arguments whose gradient is not zero.
    """

    arguments: list[str]
    forward: Run
    order: list[int]
    read: list[str]
    prepare: Run
    seeds: list[str]
    back: Run
    gradients: list[str]

    def run(self, named: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs, and what to keep."""
        found = self.forward(*[named[name] for name in self.arguments])
        return [found[place] for place in self.order], found[len(self.order) :]

    def factors(self, kept: list[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
        return self.prepare(*kept, *[named[name] for name in self.read])


class TensorProgram:
    """A schedule whose stages run as torch operations.

    Attributes:
        stages: The stages.
        kept: Names of the leaves, accumulators and values that the backward pass needs at each step.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.stages = [_split(schedule, index) for index in range(len(schedule.stages))]
        operands = [product.operand for accumulator in schedule.accumulators for product in accumulator.by_step]
        names = [f"{operand.kind}{operand.index}" for operand in operands]
        names += [name for stage in self.stages for name in stage.read if name.startswith(("leaf", "accumulator"))]
        self.kept = list(dict.fromkeys(names))


def _split(schedule: Schedule, index: int) -> TensorStage:
    """Divide the graph of a derivative by what depends on the gradients."""
    derivative = trace_derivative(schedule, index)
    graph, rows = derivative.graph, schedule.rows
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    cut = len(placeholders) - len(derivative.real_outputs)
    inputs, seeds = placeholders[:cut], placeholders[cut:]
    names = [*derivative.real, *derivative.counts, *(f"number{i}" for i in range(len(schedule.numbers)))]
    merge_pieces(graph)
    FactorCollector(graph, seeds)
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
    in_forward = needed_by(graph, outputs)
    costly = [node for node in graph.nodes if node in in_forward and operation(node) in COSTLY and _by_row(node, rows)]
    in_prepare = needed_by(graph, list(early), costly)
    kept = [node for node in costly if node in in_prepare]
    read = [(name, node) for name, node in zip(names, inputs, strict=True) if node in in_prepare]
    read.sort(key=lambda entry: not _by_row(entry[1], rows))  # the first argument tells the number of rows
    for node in graph.nodes:
        if node.target is torch.ops.aten.tanh.default:
            node.target = _tanh
    found = list(derivative.real_outputs) + [name for name in derivative.outputs if name not in derivative.real_outputs]
    return TensorStage(
        names,
        extract(graph, inputs, [*outputs, *kept], rows),
        [found.index(name) for name in derivative.outputs],
        [name for name, _ in read],
        extract(graph, [*kept, *(node for _, node in read)], list(early), rows),
        list(derivative.real_outputs),
        extract(graph, [*seeds, *early], list(gradients.values()), rows),
        list(gradients),
    )


def _by_row(node: fx.Node, rows: int) -> bool:
    shape = node.meta["val"].shape
    return len(shape) > 0 and shape[0] == rows


def _tanh(x: Tensor) -> Tensor:
    """Return tanh(x). On the CPU it is 2 sig(2 x) - 1, up to 14 times as fast; its error is that of numbers near 1."""
    if x.device.type != "cpu":
        return torch.tanh(x)
    return (x + x).sigmoid_().mul_(2).sub_(1)
