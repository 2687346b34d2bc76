"""The lowering of a graph of tensors to scalar expressions: one rule for each operation of torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from cells.engines.fused.errors import NotFusable
from cells.engines.fused.graphs import operation
from cells.engines.fused.lanes import Lanes

SAME = {"alias", "clone", "detach", "lift_fresh_copy", "contiguous"}
RENAMED = {
    "bitwise_and": "and",
    "bitwise_not": "not",
    "bitwise_or": "or",
    "logical_and": "and",
    "logical_not": "not",
    "logical_or": "or",
}
ELEMENTWISE = {
    "abs", "cos", "div", "eq", "erf", "exp", "expm1", "ge", "gt", "le", "log", "log1p", "lt", "maximum", "minimum",
    "mul", "ne", "neg", "sigmoid", "sign", "sin", "sqrt", "tanh", "where", *RENAMED,
}  # fmt: skip

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def lower(lanes: Lanes, graph: fx.Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the expressions of the outputs of ``graph``.

    Raises:
        NotFusable: if an operation is not pointwise.
    """
    values: dict[fx.Node, Any] = {}
    remaining = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = next(remaining)
        elif node.op == "output":
            return [values[arg] for arg in tree_leaves(node.args[0])]
        elif len(node.users) > 0:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = _apply(lanes, node, args, kwargs)
    raise AssertionError("a graph has an output")


def _apply(lanes: Lanes, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if node.target is operator.getitem:
        return args[0][args[1]]
    name = operation(node)
    if name in SAME:
        return args[0]
    if name in ELEMENTWISE:
        if kwargs.get("rounding_mode") is not None:
            raise NotFusable(f"step uses aten.{name} with rounding, which the fused engine does not have")
        return lanes.elementwise(RENAMED.get(name, name), *args)
    rule = RULES.get(name)
    if rule is None:
        raise NotFusable(f"step uses aten.{name}, which is not a pointwise operation")
    return rule(lanes, node, *args, **kwargs)


def _rule_for(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


@_rule_for("add", "sub")
def _add(lanes: Lanes, node: fx.Node, a: Any, b: Any, alpha: float = 1) -> np.ndarray:
    if alpha != 1:
        b = lanes.elementwise("mul", b, alpha)
    return lanes.elementwise(operation(node), a, b)


@_rule_for("relu")
def _relu(lanes: Lanes, node: fx.Node, a: Any) -> np.ndarray:
    return lanes.elementwise("where", lanes.elementwise("le", a, 0.0), 0.0, a)


@_rule_for("sgn")
def _sgn(lanes: Lanes, node: fx.Node, a: Any) -> np.ndarray:
    return lanes.elementwise("sign", a)


@_rule_for("reciprocal")
def _reciprocal(lanes: Lanes, node: fx.Node, a: Any) -> np.ndarray:
    return lanes.elementwise("div", 1.0, a)


@_rule_for("rsqrt")
def _rsqrt(lanes: Lanes, node: fx.Node, a: Any) -> np.ndarray:
    return lanes.elementwise("div", 1.0, lanes.elementwise("sqrt", a))


@_rule_for("clamp")
def _clamp(lanes: Lanes, node: fx.Node, a: Any, least: Any = None, most: Any = None) -> np.ndarray:
    if least is not None:
        a = lanes.elementwise("maximum", a, least)
    return a if most is None else lanes.elementwise("minimum", a, most)


@_rule_for("pow")
def _pow(lanes: Lanes, node: fx.Node, a: Any, exponent: Any) -> np.ndarray:
    if not isinstance(exponent, (int, float)) or abs(exponent) > 8 or (2 * exponent) % 1:
        raise NotFusable(f"step uses aten.pow with the exponent {exponent}; half-integers up to 8 are fused")
    whole, half = divmod(abs(exponent), 1)
    power = reduce(lambda x, y: lanes.elementwise("mul", x, y), [a] * int(whole)) if whole else np.full_like(a, 1.0)
    if half:
        power = lanes.elementwise("mul", power, lanes.elementwise("sqrt", a))
    return lanes.elementwise("div", 1.0, power) if exponent < 0 else lanes.elementwise("mul", power, 1.0)


@_rule_for("remainder")
def _remainder(lanes: Lanes, node: fx.Node, a: Any, b: Any) -> np.ndarray:
    if not all(getattr(x, "kind", "int") == "int" for x in np.asarray(a, dtype=object).flat) or not isinstance(b, int):
        raise NotFusable("step uses aten.remainder of real numbers, which the fused engine does not have")
    return lanes.elementwise("remainder", a, b)


@_rule_for("_to_copy")
def _to_copy(lanes: Lanes, node: fx.Node, a: Any, dtype: torch.dtype | None = None, **other: Any) -> np.ndarray:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["val"].dtype, node.meta["val"].dtype
    if before == after:
        return np.asarray(a)
    if after.is_floating_point and not before.is_floating_point:
        return np.asarray(np.vectorize(lanes.table.to_real, otypes=[object])(a))
    raise NotFusable(f"step casts {before} to {after}")


@_rule_for("full", "full_like")
def _full(lanes: Lanes, node: fx.Node, like: Any, value: Any, **other: Any) -> np.ndarray:
    return lanes.constant(node, value)


@_rule_for("empty_permuted")
def _empty(lanes: Lanes, node: fx.Node, *shape: Any, **other: Any) -> np.ndarray:
    return lanes.constant(node, 0.0)  # torch's rules read its shape alone


@_rule_for("scalar_tensor")
def _scalar_tensor(lanes: Lanes, node: fx.Node, value: Any, **other: Any) -> np.ndarray:
    return lanes.constant(node, value)


@_rule_for("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze")
def _view(lanes: Lanes, node: fx.Node, a: np.ndarray, *shape: Any) -> np.ndarray:
    return lanes.reshape(node, a)


@_rule_for("expand")
def _expand(lanes: Lanes, node: fx.Node, a: np.ndarray, *shape: Any, **implicit: bool) -> np.ndarray:
    return np.broadcast_to(a, lanes.blocks(node.meta["val"].shape))


@_rule_for("permute")
def _permute(lanes: Lanes, node: fx.Node, a: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    rank = len(dims)
    dims = [dim % rank for dim in dims]
    if dims[0] != 0 or dims[-1] != rank - 1:
        raise lanes.refusal(node)
    return np.transpose(a, [dim - 1 for dim in dims[1:]])


@_rule_for("split_with_sizes")
def _split_with_sizes(lanes: Lanes, node: fx.Node, a: np.ndarray, sizes: Sequence[int], dim: int = 0) -> list[Any]:
    axis, unit = lanes.axis(node, dim)
    if any(size % unit for size in sizes):
        raise lanes.refusal(node)
    return np.split(a, np.cumsum([size // unit for size in sizes])[:-1], axis)


@_rule_for("slice")
def _slice(
    lanes: Lanes,
    node: fx.Node,
    a: np.ndarray,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> np.ndarray:
    if step != 1:
        raise lanes.refusal(node)
    axis, part = lanes.cut(node, dim, start, end)
    return a[(slice(None),) * axis + (part,)]


@_rule_for("slice_scatter")
def _slice_scatter(
    lanes: Lanes,
    node: fx.Node,
    a: np.ndarray,
    source: np.ndarray,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> np.ndarray:
    if step != 1:
        raise lanes.refusal(node)
    axis, part = lanes.cut(node, dim, start, end)
    found = np.array(np.broadcast_to(a, lanes.blocks(node.meta["val"].shape)), dtype=object)
    found[(slice(None),) * axis + (part,)] = source
    return found


@_rule_for("select")
def _select(lanes: Lanes, node: fx.Node, a: np.ndarray, dim: int, index: int) -> np.ndarray:
    axis, unit = lanes.axis(node, dim)
    if unit != 1:
        raise lanes.refusal(node)
    return np.asarray(np.take(a, index, axis), dtype=object)


@_rule_for("select_scatter")
def _select_scatter(lanes: Lanes, node: fx.Node, a: np.ndarray, source: np.ndarray, dim: int, index: int) -> np.ndarray:
    axis, _ = lanes.axis(node, dim)
    if axis == a.ndim - 1:
        raise lanes.refusal(node)
    found = np.array(np.broadcast_to(a, lanes.blocks(node.meta["val"].shape)), dtype=object)
    found[(slice(None),) * axis + (index,)] = source
    return found


@_rule_for("cat")
def _cat(lanes: Lanes, node: fx.Node, arrays: Sequence[np.ndarray], dim: int = 0) -> np.ndarray:
    axis, _ = lanes.axis(node, dim)
    sources = node.args[0]
    assert isinstance(sources, (tuple, list))
    features = {lanes.features(source.meta["val"].shape) for source in sources if isinstance(source, fx.Node)}
    if len(features) > 1:
        raise lanes.refusal(node)
    return np.concatenate(arrays, axis)


@_rule_for("sum", "mean")
def _sum(
    lanes: Lanes, node: fx.Node, a: np.ndarray, dims: Sequence[int] | None = None, keepdim: bool = False, **other: Any
) -> np.ndarray:
    axes = []
    for dim in dims or []:
        axis, unit = lanes.axis(node, dim)
        if unit != 1:
            raise NotFusable(f"step uses aten.{operation(node)} across units, which is not a pointwise operation")
        axes.append(axis)
    if not axes:
        raise NotFusable(f"step uses aten.{operation(node)} over a whole tensor, which is not a pointwise operation")
    count = math.prod(a.shape[axis] for axis in axes)
    for axis in sorted(axes, reverse=True):
        parts = np.split(a, a.shape[axis], axis)
        a = reduce(lambda x, y: lanes.elementwise("add", x, y), parts)
    a = a.reshape(lanes.blocks(node.meta["val"].shape))
    return lanes.elementwise("div", a, float(count)) if operation(node) == "mean" else a


@_rule_for("linalg_vector_norm")
def _norm(
    lanes: Lanes,
    node: fx.Node,
    a: np.ndarray,
    order: float = 2,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    **other: Any,
) -> np.ndarray:
    if order != 2:
        raise NotFusable(f"step uses a norm of order {order}; order 2 is fused")
    return lanes.elementwise("sqrt", _sum(lanes, node, lanes.elementwise("mul", a, a), dims, keepdim))
