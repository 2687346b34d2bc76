"""Rewriting a stage and its derivative as fewer torch operations in each step.

Starting an operation takes longer than computing one step of it, so their number matters:

- The same operation on most pieces of a tensor, such as the sigmoid of three gates of four, becomes one operation on
  the whole.
- The derivative is linear in the gradients that arrive. Their factors do not depend on them, so products of factors are
  computed before the loop, for many steps at once.
- A product and a sum become one operation, and tanh on the CPU a faster one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from cells.engines.fused.graphs import operation, tanh

aten = torch.ops.aten
MERGED = {"sigmoid", "tanh", "exp", "relu", "add", "sub", "rsub", "mul"}


def rewrite(graph: fx.Graph, seeds: Sequence[fx.Node]) -> None:
    """Rewrite the graph of a stage and its derivative.

    Args:
        graph: The graph.
        seeds: The gradients that arrive.
    """
    merge_pieces(graph)
    FactorCollector(graph, seeds)
    merge_pieces(graph)  # the factors
    add_products(graph)
    for node in graph.nodes:
        if node.target is aten.tanh.default:
            node.target = tanh


def add_products(graph: fx.Graph) -> None:
    """Compute x + a b by one operation."""
    for node in graph.nodes:
        if operation(node) != "add" or node.kwargs or not all(isinstance(arg, fx.Node) for arg in node.args):
            continue
        for x, product in (node.args, node.args[::-1]):
            single = len(product.users) == 1 and operation(product) == "mul" and not product.kwargs
            tensors = all(isinstance(arg, fx.Node) for arg in product.args)
            if single and tensors and shape_of(x) == shape_of(product):
                node.target, node.args = aten.addcmul.default, (x, *product.args)
                break


def merge_pieces(graph: fx.Graph) -> None:
    """Compute an operation on the whole where at least half of the pieces of a split undergo it."""
    while (members := _same_operation(graph)) is not None:
        first = members[0].node
        with graph.inserting_before(first):
            wholes = [source.whole if isinstance(source, _Piece) else source for source in members[0].sources]
            piece = first.meta["val"]
            whole = add_node(graph, first.target, *wholes, value=torch.cat([piece] * members[0].count, 1))
            split = add_node(graph, aten.split.Tensor, whole, piece.shape[1], -1, value=[piece] * members[0].count)
            parts = [add_node(graph, getitem, split, member.place, value=piece) for member in members]
        for member, part in zip(members, parts, strict=True):
            member.node.replace_all_uses_with(part)
            graph.erase_node(member.node)


@dataclass(frozen=True)
class _Piece:
    """One of ``count`` equal pieces of the features of ``whole``."""

    whole: fx.Node
    place: int
    count: int


@dataclass(frozen=True)
class _Member:
    """An operation on pieces that have the same place in their wholes."""

    node: fx.Node
    sources: tuple[Any, ...]
    place: int
    count: int


def _same_operation(graph: fx.Graph) -> list[_Member] | None:
    pieces: dict[fx.Node, _Piece] = {}
    groups: dict[Any, list[_Member]] = {}
    for node in graph.nodes:
        if node.target is getitem and _cuts_features(node.args[0]):
            split, place = node.args
            pieces[node] = _Piece(split.args[0], place, len(split.meta["val"]))
        if operation(node) not in MERGED or node.kwargs:
            continue
        sources = tuple(pieces.get(arg) if isinstance(arg, fx.Node) else arg for arg in node.args)
        found = [source for source in sources if isinstance(source, _Piece)]
        if None in sources or len({(piece.place, piece.count) for piece in found}) != 1:
            continue
        key = node.target, tuple(source.whole if isinstance(source, _Piece) else source for source in sources)
        groups.setdefault(key, []).append(_Member(node, sources, found[0].place, found[0].count))
    return next((group for group in groups.values() if len(group) >= 2 and group[0].count <= 2 * len(group)), None)


def _cuts_features(node: Any) -> bool:
    """Return whether a split cuts the last of two dimensions into equal pieces."""
    if not isinstance(node, fx.Node) or operation(node) != "split" or node.args[2:] not in ((-1,), (1,)):
        return False
    return all(part.shape == node.meta["val"][0].shape and part.dim() == 2 for part in node.meta["val"])


@dataclass(frozen=True)
class _Product:
    """A gradient, and the factor by which it is multiplied, if any."""

    gradient: fx.Node
    factor: fx.Node | None = None


class FactorCollector:
    """Rewrites a derivative so that each gradient is multiplied by one factor, computed before.

    Args:
        graph: The graph.
        seeds: The gradients that arrive. What depends on them is linear in them.
    """

    def __init__(self, graph: fx.Graph, seeds: Sequence[fx.Node]) -> None:
        self.graph = graph
        self.products = {seed: _Product(seed) for seed in seeds}
        self.computed: dict[fx.Node, fx.Node] = {}
        self.joined: dict[tuple[Any, ...], fx.Node] = {}
        for node in list(graph.nodes):
            if node.op == "output":
                with graph.inserting_before(node):
                    node.args = fx.node.map_arg(node.args, self._value)
            elif any(source in self.products for source in node.all_input_nodes):
                with graph.inserting_before(node):
                    self.products[node] = self._rewrite(node)

    def _value(self, node: fx.Node) -> fx.Node:
        """Return the node that computes what ``node`` did."""
        product = self.products.get(node, _Product(node))
        if product.factor is None:
            return product.gradient
        if node not in self.computed:
            self.computed[node] = self._call(aten.mul.Tensor, product.gradient, product.factor)
        return self.computed[node]

    def _rewrite(self, node: fx.Node) -> _Product:
        rule: Callable[..., _Product | None] | None = getattr(self, f"_{operation(node)}", None)
        found = None if rule is None or node.kwargs else rule(*node.args)
        if found is None:
            node.args = fx.node.map_arg(node.args, self._value)
            found = _Product(node)
        return found

    def _call(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        """Add a pointwise operation."""
        values = [torch.empty(shape_of(arg), device="meta") for arg in args if isinstance(arg, fx.Node)]
        return add_node(self.graph, target, *args, value=reduce(torch.add, values))

    def _times(self, gradient: fx.Node, factor: fx.Node) -> _Product | None:
        """Return ``gradient`` times ``factor``, if that does not depend on gradients."""
        if factor in self.products or gradient not in self.products:
            return None
        product = self.products[gradient]
        if product.factor is not None:
            factor = self._call(aten.mul.Tensor, product.factor, factor)
        return _Product(product.gradient, factor)

    def _scaled(self, gradient: fx.Node, number: float) -> _Product | None:
        product = self.products[gradient]
        if product.factor is None:
            return None
        return _Product(product.gradient, self._call(aten.mul.Scalar, product.factor, number))

    def _mul(self, a: Any, b: Any) -> _Product | None:
        if not isinstance(b, fx.Node):
            return self._scaled(a, b)
        return self._times(a, b) or self._times(b, a)

    def _neg(self, gradient: fx.Node) -> _Product | None:
        return self._scaled(gradient, -1.0)

    def _sigmoid_backward(self, gradient: fx.Node, s: fx.Node) -> _Product | None:
        return self._times(gradient, self._call(aten.mul.Tensor, s, self._call(aten.rsub.Scalar, s, 1)))

    def _tanh_backward(self, gradient: fx.Node, y: fx.Node) -> _Product | None:
        return self._times(gradient, self._call(aten.rsub.Scalar, self._call(aten.mul.Tensor, y, y), 1))

    def _threshold_backward(self, gradient: fx.Node, x: fx.Node, threshold: float) -> _Product | None:
        return self._times(gradient, self._call(_is_above, x, threshold))

    def _add(self, a: Any, b: Any) -> _Product | None:
        if not isinstance(b, fx.Node) or shape_of(a) != shape_of(b):
            return None
        for gradient, other in ((a, b), (b, a)):
            if is_zero(other) and gradient in self.products:
                return self.products[gradient]
        if a not in self.products or b not in self.products:
            return None
        first, second = self.products[a], self.products[b]
        if first.gradient is second.gradient and first.factor is not None and second.factor is not None:
            return _Product(first.gradient, self._call(aten.add.Tensor, first.factor, second.factor))
        for product, other in ((second, a), (first, b)):
            if product.factor is not None and shape_of(product.gradient) == shape_of(a):
                return _Product(self._call(aten.addcmul.default, self._value(other), product.gradient, product.factor))
        return None

    def _cat(self, parts: Sequence[fx.Node], dim: int = 0) -> _Product | None:
        products = [self.products.get(part) for part in parts]
        gradients, factors = [], []
        for part, product in zip(parts, products, strict=True):
            if product is None or product.factor is None:
                return None
            if not shape_of(part) == shape_of(product.factor) == shape_of(product.gradient):
                return None
            gradients.append(product.gradient)
            factors.append(product.factor)
        return _Product(self._joined(gradients, dim), self._joined(factors, dim))

    def _joined(self, parts: list[fx.Node], dim: int) -> fx.Node:
        key = *parts, dim
        if key not in self.joined:
            value = torch.cat([torch.empty(shape_of(part), device="meta") for part in parts], dim)
            self.joined[key] = add_node(self.graph, aten.cat.default, parts, dim, value=value)
        return self.joined[key]


def add_node(graph: fx.Graph, target: Any, *args: Any, value: Any) -> fx.Node:
    """Add an operation whose result is like ``value``."""
    node = graph.call_function(target, args)
    node.meta["val"] = value
    return node


def is_zero(node: fx.Node) -> bool:
    """Return whether the value of a node is zero everywhere."""
    return operation(node) == "zeros_like"


def shape_of(node: fx.Node) -> torch.Size:
    shape: torch.Size = node.meta["val"].shape
    return shape


def _is_above(x: Tensor, threshold: float) -> Tensor:
    return (x > threshold).to(x.dtype)
