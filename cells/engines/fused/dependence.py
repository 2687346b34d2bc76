"""What each value of a traced step depends on: the input, the state, and products with weights."""

from __future__ import annotations

import torch
from torch import fx

from cells.engines.fused.errors import NotFusable
from cells.engines.fused.graphs import operation
from cells.engines.fused.trace import StepGraph


class Dependence:
    """The kinds of the values of a step, as :mod:`cells.engines.fused.schedule` defines them.

    Args:
        step: The traced step.

    Attributes:
        nodes: Its nodes.
        weights: Its inputs that are tensors of the step.
        x: Its input.
        leaves: The leaves of the state before it.

    Raises:
        NotFusable: if the step draws random numbers.
    """

    def __init__(self, step: StepGraph) -> None:
        self.nodes = list(step.graph.nodes)
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self.x, self.leaves = placeholders[0], placeholders[1 : 1 + step.leaves]
        self.weights = placeholders[1 + step.leaves :]
        self._by_x: set[fx.Node] = {self.x}
        self._by_state: set[fx.Node] = set(self.leaves)
        self._by_product: set[fx.Node] = set()
        self._follow()

    def _follow(self) -> None:
        for node in self.nodes:
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise NotFusable(f"step draws random numbers by aten.{operation(node)}")
            for reached in (self._by_x, self._by_state, self._by_product):
                if any(source in reached for source in node.all_input_nodes):
                    reached.add(node)
            if operation(node) in ("mm", "addmm") and self.per_row(node):
                self._by_product.add(node)

    def per_row(self, node: fx.Node) -> bool:
        """Return whether a value belongs to the rows of the batch."""
        return node in self._by_x or node in self._by_state

    def is_sequence(self, node: fx.Node) -> bool:
        """Return whether a value depends on the input, but on no state and no product."""
        return node in self._by_x and node not in self._by_state and node not in self._by_product

    def is_free(self, node: object) -> bool:
        """Return whether a value depends on weights alone."""
        return isinstance(node, fx.Node) and not self.per_row(node)
