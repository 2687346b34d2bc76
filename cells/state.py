"""Operations on the state of any cell: a pytree of tensors whose first dimension is the batch.

Shapes: B batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

State = Any  # a pytree (tuples, named tuples, lists, dictionaries) of tensors, batch first


def detach(state: State) -> State:
    """Return ``state`` without its graph, for truncated back-propagation through time."""
    return tree_map(Tensor.detach, state)


def reset_rows(state: State, reset_B: Tensor, initial: State) -> State:
    """Return ``state`` with the rows where ``reset_B`` (bool, shape (B,)) is True replaced by those of ``initial``.

    Gradients flow to ``initial`` in the replaced rows and to ``state`` in the others.
    """

    def choose(leaf: Tensor, initial_leaf: Tensor) -> Tensor:
        return torch.where(reset_B.view(-1, *[1] * (leaf.dim() - 1)), initial_leaf, leaf)

    return tree_map(choose, state, initial)


def move(state: State, device: torch.device | str) -> State:
    """Return ``state`` on ``device``."""
    return tree_map(lambda leaf: leaf.to(device), state)


def leaves(state: State) -> list[Tensor]:
    """Return the tensors of ``state`` in a fixed order."""
    return tree_leaves(state)


def check_state(name: str, state: State, expected: State) -> None:
    """Check that ``state`` has the structure of ``expected``, and its tensors the same shapes, dtypes and devices.

    Under autocast the dtypes may be others, because a step may leave its state in the low precision.

    Raises:
        ValueError: with a description of both.
    """
    if tree_structure(state) == tree_structure(expected):
        pairs = list(zip(leaves(state), leaves(expected), strict=True))
        if all(isinstance(leaf, Tensor) and _fits(leaf, like) for leaf, like in pairs):
            return
    raise ValueError(f"{name} must be {tree_map(_Description, expected)}, got {tree_map(_Description, state)}")


def _fits(leaf: Tensor, like: Tensor) -> bool:
    same_dtype = leaf.dtype == like.dtype or (
        leaf.is_floating_point() and like.is_floating_point() and torch.is_autocast_enabled(like.device.type)
    )
    return leaf.shape == like.shape and leaf.device == like.device and same_dtype


class _Description:
    """A leaf of a state in an error message: ``float32 (3, 6) on cpu``."""

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf

    def __repr__(self) -> str:
        if not isinstance(self.leaf, Tensor):
            return repr(self.leaf)
        dtype = str(self.leaf.dtype).removeprefix("torch.")
        return f"{dtype} {tuple(self.leaf.shape)} on {self.leaf.device}"
