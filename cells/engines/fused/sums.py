"""The sums of products with weights in a step, and the stage of each.

``W x + U h + b`` is one sum of two products. Sums over the same operands are computed by one product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from cells.engines.fused.dependence import Dependence
from cells.engines.fused.errors import NotFusable
from cells.engines.fused.graphs import operation


@dataclass
class Sum:
    """Products of (operand, weight), and biases."""

    products: list[tuple[fx.Node, fx.Node]]
    biases: list[fx.Node]


class Sums:
    """All sums of products of a step.

    Args:
        dependence: What the values of the step depend on.

    Attributes:
        found: The sums.
        roots: Those that are no part of a larger one.

    Raises:
        NotFusable: if a product is not one with a weight.
    """

    def __init__(self, dependence: Dependence) -> None:
        self.dependence = dependence
        self.found: dict[fx.Node, Sum] = {}
        for node in dependence.nodes:
            if dependence.per_row(node):
                self._note(node)
        self.roots = [node for node in self.found if not self._absorbed(node)]
        self._stages: dict[fx.Node, int] = {}

    def _note(self, node: fx.Node) -> None:
        """Record ``node`` if it is a product or a sum of products."""
        name = operation(node)
        if name == "addmm":
            bias: Any
            bias, operand, weight = node.args[:3]
            if node.kwargs.get("beta", 1) != 1 or node.kwargs.get("alpha", 1) != 1:
                raise NotFusable("step uses aten.addmm with factors")
            if self.dependence.is_free(bias):
                self.found[node] = Sum(self._products(node, operand, weight), [bias])
            elif bias in self.found and len(bias.users) == 1:
                below = self.found[bias]
                self.found[node] = Sum([*below.products, *self._products(node, operand, weight)], below.biases)
            else:
                raise NotFusable("step uses aten.addmm on a value that is no sum of products")
        elif name == "mm":
            self.found[node] = Sum(self._products(node, *node.args[:2]), [])
        elif name == "add" and node.kwargs.get("alpha", 1) == 1:
            a, b = node.args
            parts = [part for part in (a, b) if isinstance(part, fx.Node)]
            sums = [part for part in parts if part in self.found and len(part.users) == 1]
            free = [part for part in parts if self.dependence.is_free(part) and self._is_bias(part, node)]
            if a is not b and sums and len(sums) + len(free) == 2:
                merged = [self.found[part] for part in sums]
                self.found[node] = Sum(
                    [product for part in merged for product in part.products],
                    [*(bias for part in merged for bias in part.biases), *free],
                )

    def _is_bias(self, node: fx.Node, total: fx.Node) -> bool:
        shape = node.meta["val"].shape
        return node.meta["val"].dtype == total.meta["val"].dtype and (len(shape) < 2 or shape[0] == 1)

    def _products(self, node: fx.Node, operand: Any, weight: Any) -> list[tuple[fx.Node, fx.Node]]:
        """Return the products of one mm; that of joined operands is one product for each of them."""
        if not self.dependence.is_free(weight) or self.dependence.is_free(operand):
            raise NotFusable("step multiplies matrices that both depend on the input or the state")
        if operation(operand) == "cat" and self._last_dim(operand):
            found = []
            start = 0
            for part in operand.args[0]:
                if self.dependence.is_free(part):
                    raise NotFusable("step joins a weight to the input or the state")
                width = part.meta["val"].shape[1]
                found.extend(self._products(node, part, self._rows_of(weight, start, start + width)))
                start += width
            return found
        return [(operand, weight)]

    def _last_dim(self, cat: fx.Node) -> bool:
        dim = cat.args[1] if len(cat.args) > 1 else 0
        return dim in (1, -1)

    def _rows_of(self, weight: fx.Node, start: int, end: int) -> fx.Node:
        with weight.graph.inserting_after(weight):
            part: fx.Node = weight.graph.call_function(torch.ops.aten.slice.Tensor, (weight, 0, start, end))
        part.meta["val"] = weight.meta["val"][start:end]
        return part

    def _absorbed(self, node: fx.Node) -> bool:
        """Return whether ``node`` is a part of one larger sum."""
        users = list(node.users)
        if len(users) != 1 or users[0] not in self.found:
            return False
        terms = {"add": 2, "addmm": 1, "mm": 0}[operation(users[0])]
        return node in users[0].args[:terms]

    def groups(self) -> list[list[fx.Node]]:
        """Return the roots, those over the same operands together, in the order of their stages."""
        groups: dict[object, list[fx.Node]] = {}
        for root in self.roots:
            operands = [operand for operand, _ in self.found[root].products]
            key = tuple(dict.fromkeys(operands)) if len(set(operands)) == len(operands) else root
            groups.setdefault(key, []).append(root)
        return sorted(groups.values(), key=lambda members: self.stage_of(members[0]))

    def stage_of(self, root: fx.Node) -> int:
        """Return the first stage that may read ``root``."""
        if root not in self._stages:
            operands = [operand for operand, _ in self.found[root].products]
            self._stages[root] = max(map(self.stage_of_operand, operands))
        return self._stages[root]

    def stage_of_operand(self, operand: fx.Node) -> int:
        """Return the first stage that may read a product with ``operand``."""
        if self.dependence.is_sequence(operand) or operand in self.dependence.leaves:
            return 0
        return 1 + self._latest(operand)

    def _latest(self, node: fx.Node) -> int:
        """Return the last stage whose accumulators ``node`` reads."""
        if node in self.roots:
            return self.stage_of(node)
        if node not in self._stages:
            sources = [source for source in node.all_input_nodes if not self.dependence.is_free(source)]
            self._stages[node] = max((self._latest(source) for source in sources), default=0)
        return self._stages[node]
