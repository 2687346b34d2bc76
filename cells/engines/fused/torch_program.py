"""The stages of a schedule as graphs of torch operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from cells.engines.fused.derivatives import Derivative, trace_derivative
from cells.engines.fused.graphs import Run, extract, needed_by
from cells.engines.fused.schedule import Schedule


@dataclass(frozen=True)
class TensorStage:
    """A stage for tensors.

    Attributes:
        derivative: What its graphs were made of.
        forward: Takes real inputs, counts and numbers; gives the real outputs, then the others.
        prepare: Takes the same; gives what the backward pass needs of them.
        back: Takes the gradients of the real outputs and then that; gives the gradients of the real inputs.
    """

    derivative: Derivative
    forward: Run
    prepare: Run
    back: Run

    def outputs(self, named: dict[str, Tensor], numbers: list[Tensor]) -> list[Tensor]:
        """Return the outputs in the order of the stage."""
        found = self.forward(*self.arguments(named), *numbers)
        if not self.derivative.counts:
            return found
        real = self.derivative.real_outputs
        order = [*real, *(name for name in self.derivative.outputs if name not in real)]
        by_name = dict(zip(order, found, strict=True))
        return [by_name[name] for name in self.derivative.outputs]

    def arguments(self, named: dict[str, Tensor]) -> list[Tensor]:
        return [named[name] for name in (*self.derivative.real, *self.derivative.counts)]


class TensorProgram:
    """A schedule whose stages run as torch operations."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.stages = [_split(schedule, index) for index in range(len(schedule.stages))]


def _split(schedule: Schedule, index: int) -> TensorStage:
    """Divide the graph of a derivative by what depends on the gradients."""
    derivative = trace_derivative(schedule, index)
    graph = derivative.graph
    for node in graph.nodes:
        if node.target is torch.ops.aten.tanh.default:
            node.target = _tanh
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    cut = len(placeholders) - len(derivative.real_outputs)
    inputs, seeds = placeholders[:cut], placeholders[cut:]
    results = tree_leaves(next(node for node in graph.nodes if node.op == "output").args[0])
    outputs, gradients = results[: len(derivative.outputs)], results[len(derivative.outputs) :]
    late: set[fx.Node] = set(seeds)
    for node in graph.nodes:
        if any(source in late for source in node.all_input_nodes):
            late.add(node)
    needed = needed_by(graph, gradients)
    early = {
        source: None
        for node in graph.nodes
        if node in late and node in needed
        for source in node.all_input_nodes
        if source not in late
    }
    early |= {node: None for node in gradients if node not in late}
    rows = schedule.rows
    return TensorStage(
        derivative,
        extract(graph, inputs, outputs, rows),
        extract(graph, inputs, list(early), rows),
        extract(graph, [*seeds, *early], gradients, rows),
    )


def _tanh(x: Tensor) -> Tensor:
    """Return tanh(x). On the CPU it is 2 sig(2 x) - 1, up to 14 times as fast; its error is that of numbers near 1."""
    return torch.sigmoid(2 * x).mul_(2).sub_(1) if x.device.type == "cpu" else torch.tanh(x)
