"""From a traced graph of tensors to scalar expressions.

A kernel runs over rows and, within a row, over the units 0, .., W-1. A tensor of W x k features is k blocks, each with
a number for every unit; so a (B, 4H) tensor of gates is four blocks of W = H units. A tensor becomes a numpy array of
expressions, one for each block: the last axis holds the blocks of the last dimension, the axes before it are the
dimensions between batch and features. Splitting, joining and viewing features then only moves expressions around, as
long as it does not cut a block.
"""

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
from cells.engines.fused.expressions import Expression, Table

MOST_BLOCKS = 64

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


def common_width(graph: fx.Graph, rows: int) -> int:
    """Return W, the largest number of units of which all features in ``graph`` are multiples.

    A value with one feature belongs to the whole row, and stands beside any number of units, unless it is an input.
    """
    widths = [
        shape[-1]
        for node in graph.nodes
        for shape in _shapes(node.meta.get("val"))
        if len(shape) > 1 and shape[0] == rows and (shape[-1] > 1 or _is_real_input(node))
    ]
    width = math.gcd(*widths) if widths else 1
    most = max(widths, default=1)
    if most > MOST_BLOCKS * width:
        raise NotFusable(f"step combines features in groups of {width} within {most}; views across units are not fused")
    return width


def _is_real_input(node: fx.Node) -> bool:
    return node.op == "placeholder" and bool(node.meta["val"].dtype.is_floating_point)


def _shapes(value: object) -> list[torch.Size]:
    if isinstance(value, torch.Tensor):
        return [value.shape]
    return [shape for item in value for shape in _shapes(item)] if isinstance(value, (tuple, list)) else []


class Lowering:
    """Turns a graph into expressions.

    Args:
        rows: The batch size with which the graph was traced.
        width: W.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.rows = rows
        self.width = width
        self.table = Table()

    def blocks(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the array of expressions of a tensor of this shape."""
        if len(shape) > 1 and shape[0] in (1, self.rows):
            shape = shape[1:]
        elif tuple(shape) == (self.rows,):
            return ()
        if not shape:
            return ()
        last = shape[-1]
        return (*shape[:-1], 1 if last == 1 else last // self.width)

    def input(self, name: str, shape: Sequence[int], real: bool = True) -> np.ndarray:
        """Return the expressions of an input."""
        per_row = len(shape) < 2 or (shape[-1] == 1 and self.width != 1)
        found = np.empty(self.blocks(shape), dtype=object)
        for block, where in enumerate(np.ndindex(found.shape)):
            found[where] = self.table.input(name, block, "real" if real else "int", per_row)
        return found

    def scalar(self, x: Expression) -> np.ndarray:
        """Return an array of one expression without dimensions."""
        found = np.empty((), dtype=object)
        found[()] = x
        return found

    def run(self, graph: fx.Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
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
                values[node] = self._call(node, args, kwargs)
        raise AssertionError("a graph has an output")

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = operation(node)
        if name in SAME:
            return args[0]
        if name in ELEMENTWISE:
            if kwargs.get("rounding_mode") is not None:
                raise NotFusable(f"step uses aten.{name} with rounding, which the fused engine does not have")
            return self._elementwise(RENAMED.get(name, name), *args)
        handler = HANDLERS.get(name)
        if handler is None:
            raise NotFusable(f"step uses aten.{name}, which is not a pointwise operation")
        return handler(self, node, *args, **kwargs)

    def _elementwise(self, op: str, *args: Any) -> np.ndarray:
        arrays = np.broadcast_arrays(*(np.asarray(arg, dtype=object) for arg in args))
        found = np.empty(arrays[0].shape, dtype=object)
        for where in np.ndindex(found.shape):
            found[where] = self.table.apply(op, *(array[where] for array in arrays))
        return found

    def constant(self, node: fx.Node, value: float | int | bool) -> np.ndarray:
        """Return an array of one constant in the shape and kind of the result of ``node``."""
        result = node.meta["val"]
        value = float(value) if result.dtype.is_floating_point else value
        return np.full(self.blocks(result.shape), self.table.number(value), dtype=object)

    def reshape(self, node: fx.Node, array: np.ndarray) -> np.ndarray:
        """Return ``array`` in the shape of the result of ``node``, which must not cut a block of units."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        before, after = source.meta["val"].shape, node.meta["val"].shape
        if self._lane(before) != self._lane(after):
            raise self.refusal(node)
        return array.reshape(self.blocks(after))

    def _lane(self, shape: Sequence[int]) -> int:
        return 1 if len(shape) < 2 or shape[-1] == 1 else self.width

    def axis(self, node: fx.Node, dim: int) -> tuple[int, int]:
        """Return the axis of the array for a dimension of the first operand, and how many features one entry has."""
        source = node.args[0]
        first = source[0] if isinstance(source, (tuple, list)) else source
        assert isinstance(first, fx.Node)
        shape = first.meta["val"].shape
        dim %= len(shape)
        if dim == 0:
            raise NotFusable(f"step uses aten.{operation(node)} across the rows of the batch")
        last = dim == len(shape) - 1
        return dim - 1, self.width if last and shape[-1] != 1 else 1

    def cut(self, node: fx.Node, dim: int, start: int | None, end: int | None) -> tuple[int, slice]:
        """Return the axis and the part of it that a slice of features covers."""
        axis, unit = self.axis(node, dim)
        source = node.args[0]
        assert isinstance(source, fx.Node)
        size = source.meta["val"].shape[axis + 1]
        first, stop, _ = slice(start, end).indices(size)
        if first % unit or stop % unit:
            raise self.refusal(node)
        return axis, slice(first // unit, stop // unit)

    def refusal(self, node: fx.Node) -> NotFusable:
        return NotFusable(
            f"step uses aten.{operation(node)} on a part of the units, which is not a pointwise operation"
        )


def operation(node: fx.Node) -> str:
    """Return the name of an aten operation without its overload."""
    return str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", node.target))


Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}


def _handles(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


@_handles("add", "sub")
def _add(low: Lowering, node: fx.Node, a: Any, b: Any, alpha: float = 1) -> np.ndarray:
    if alpha != 1:
        b = low._elementwise("mul", b, alpha)
    return low._elementwise(operation(node), a, b)


@_handles("relu")
def _relu(low: Lowering, node: fx.Node, a: Any) -> np.ndarray:
    return low._elementwise("where", low._elementwise("le", a, 0.0), 0.0, a)


@_handles("sgn")
def _sgn(low: Lowering, node: fx.Node, a: Any) -> np.ndarray:
    return low._elementwise("sign", a)


@_handles("reciprocal")
def _reciprocal(low: Lowering, node: fx.Node, a: Any) -> np.ndarray:
    return low._elementwise("div", 1.0, a)


@_handles("rsqrt")
def _rsqrt(low: Lowering, node: fx.Node, a: Any) -> np.ndarray:
    return low._elementwise("div", 1.0, low._elementwise("sqrt", a))


@_handles("clamp")
def _clamp(low: Lowering, node: fx.Node, a: Any, least: Any = None, most: Any = None) -> np.ndarray:
    if least is not None:
        a = low._elementwise("maximum", a, least)
    return a if most is None else low._elementwise("minimum", a, most)


@_handles("pow")
def _pow(low: Lowering, node: fx.Node, a: Any, exponent: Any) -> np.ndarray:
    if not isinstance(exponent, (int, float)) or abs(exponent) > 8 or (2 * exponent) % 1:
        raise NotFusable(f"step uses aten.pow with the exponent {exponent}; half-integers up to 8 are fused")
    whole, half = divmod(abs(exponent), 1)
    power = reduce(lambda x, y: low._elementwise("mul", x, y), [a] * int(whole)) if whole else np.full_like(a, 1.0)
    if half:
        power = low._elementwise("mul", power, low._elementwise("sqrt", a))
    return low._elementwise("div", 1.0, power) if exponent < 0 else low._elementwise("mul", power, 1.0)


@_handles("remainder")
def _remainder(low: Lowering, node: fx.Node, a: Any, b: Any) -> np.ndarray:
    if not all(getattr(x, "kind", "int") == "int" for x in np.asarray(a, dtype=object).flat) or not isinstance(b, int):
        raise NotFusable("step uses aten.remainder of real numbers, which the fused engine does not have")
    return low._elementwise("remainder", a, b)


@_handles("_to_copy")
def _to_copy(low: Lowering, node: fx.Node, a: Any, dtype: torch.dtype | None = None, **other: Any) -> np.ndarray:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["val"].dtype, node.meta["val"].dtype
    if before == after:
        return np.asarray(a)
    if after.is_floating_point and not before.is_floating_point:
        return np.asarray(np.vectorize(low.table.to_real, otypes=[object])(a))
    raise NotFusable(f"step casts {before} to {after}")


@_handles("full", "full_like")
def _full(low: Lowering, node: fx.Node, like: Any, value: Any, **other: Any) -> np.ndarray:
    return low.constant(node, value)


@_handles("scalar_tensor")
def _scalar_tensor(low: Lowering, node: fx.Node, value: Any, **other: Any) -> np.ndarray:
    return low.constant(node, value)


@_handles("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze")
def _view(low: Lowering, node: fx.Node, a: np.ndarray, *shape: Any) -> np.ndarray:
    return low.reshape(node, a)


@_handles("expand")
def _expand(low: Lowering, node: fx.Node, a: np.ndarray, *shape: Any, **implicit: bool) -> np.ndarray:
    return np.broadcast_to(a, low.blocks(node.meta["val"].shape))


@_handles("permute")
def _permute(low: Lowering, node: fx.Node, a: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    rank = len(dims)
    dims = [dim % rank for dim in dims]
    if dims[0] != 0 or dims[-1] != rank - 1:
        raise low.refusal(node)
    return np.transpose(a, [dim - 1 for dim in dims[1:]])


@_handles("split_with_sizes")
def _split_with_sizes(low: Lowering, node: fx.Node, a: np.ndarray, sizes: Sequence[int], dim: int = 0) -> list[Any]:
    axis, unit = low.axis(node, dim)
    if any(size % unit for size in sizes):
        raise low.refusal(node)
    return np.split(a, np.cumsum([size // unit for size in sizes])[:-1], axis)


@_handles("slice")
def _slice(
    low: Lowering,
    node: fx.Node,
    a: np.ndarray,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> np.ndarray:
    if step != 1:
        raise low.refusal(node)
    axis, part = low.cut(node, dim, start, end)
    return a[(slice(None),) * axis + (part,)]


@_handles("slice_scatter")
def _slice_scatter(
    low: Lowering,
    node: fx.Node,
    a: np.ndarray,
    source: np.ndarray,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> np.ndarray:
    if step != 1:
        raise low.refusal(node)
    axis, part = low.cut(node, dim, start, end)
    found = np.array(np.broadcast_to(a, low.blocks(node.meta["val"].shape)), dtype=object)
    found[(slice(None),) * axis + (part,)] = source
    return found


@_handles("select")
def _select(low: Lowering, node: fx.Node, a: np.ndarray, dim: int, index: int) -> np.ndarray:
    axis, unit = low.axis(node, dim)
    if unit != 1:
        raise low.refusal(node)
    return np.asarray(np.take(a, index, axis), dtype=object)


@_handles("select_scatter")
def _select_scatter(
    low: Lowering, node: fx.Node, a: np.ndarray, source: np.ndarray, dim: int, index: int
) -> np.ndarray:
    axis, _ = low.axis(node, dim)
    if axis == a.ndim - 1:
        raise low.refusal(node)
    found = np.array(np.broadcast_to(a, low.blocks(node.meta["val"].shape)), dtype=object)
    found[(slice(None),) * axis + (index,)] = source
    return found


@_handles("cat")
def _cat(low: Lowering, node: fx.Node, arrays: Sequence[np.ndarray], dim: int = 0) -> np.ndarray:
    axis, _ = low.axis(node, dim)
    sources = node.args[0]
    assert isinstance(sources, (tuple, list))
    lanes = {low._lane(source.meta["val"].shape) for source in sources if isinstance(source, fx.Node)}
    if len(lanes) > 1:
        raise low.refusal(node)
    return np.concatenate(arrays, axis)


@_handles("sum", "mean")
def _sum(
    low: Lowering, node: fx.Node, a: np.ndarray, dims: Sequence[int] | None = None, keepdim: bool = False, **other: Any
) -> np.ndarray:
    axes = []
    for dim in dims or []:
        axis, unit = low.axis(node, dim)
        if unit != 1:
            raise NotFusable(f"step uses aten.{operation(node)} across units, which is not a pointwise operation")
        axes.append(axis)
    if not axes:
        raise NotFusable(f"step uses aten.{operation(node)} over a whole tensor, which is not a pointwise operation")
    count = math.prod(a.shape[axis] for axis in axes)
    for axis in sorted(axes, reverse=True):
        parts = np.split(a, a.shape[axis], axis)
        a = reduce(lambda x, y: low._elementwise("add", x, y), parts)
    a = a.reshape(low.blocks(node.meta["val"].shape))
    return low._elementwise("div", a, float(count)) if operation(node) == "mean" else a


@_handles("linalg_vector_norm")
def _norm(
    low: Lowering,
    node: fx.Node,
    a: np.ndarray,
    order: float = 2,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    **other: Any,
) -> np.ndarray:
    if order != 2:
        raise NotFusable(f"step uses a norm of order {order}; order 2 is fused")
    return low._elementwise("sqrt", _sum(low, node, low._elementwise("mul", a, a), dims, keepdim))


def flat(array: np.ndarray) -> list[Expression]:
    """Return the expressions of all blocks in memory order."""
    return list(array.reshape(-1))
