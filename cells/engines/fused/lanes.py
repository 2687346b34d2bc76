"""From a traced graph of tensors to scalar expressions.

A kernel runs over rows and, within a row, over the units 0, .., W-1. A tensor of W x k features is k blocks, each with
a number for every unit; so a (B, 4H) tensor of gates is four blocks of W = H units. A tensor becomes a numpy array of
expressions, one for each block: the last axis holds the blocks of the last dimension, the axes before it are the
dimensions between batch and features. Splitting, joining and viewing features then only moves expressions around, as
long as it does not cut a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import fx

from cells.engines.fused.errors import NotFusable
from cells.engines.fused.expressions import Expression, Table
from cells.engines.fused.graphs import operation

MOST_BLOCKS = 64


def common_width(graph: fx.Graph, rows: int) -> int:
    """Return W, the largest number of units of which all features in ``graph`` are multiples.

    A value with one feature belongs to the whole row and combines with any number of units, unless it is an input.
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


class Lanes:
    """The arrays of expressions that tensors of a step become.

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

    def elementwise(self, op: str, *args: object) -> np.ndarray:
        """Return the expressions of an operation on every element."""
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
        if self.features(before) != self.features(after):
            raise self.refusal(node)
        return array.reshape(self.blocks(after))

    def features(self, shape: Sequence[int]) -> int:
        """Return how many features one entry of the last axis has."""
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


def flat(array: np.ndarray) -> list[Expression]:
    """Return the expressions of all blocks in memory order."""
    return list(array.reshape(-1))
