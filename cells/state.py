"""What can be done to the state of any cell: a pytree of tensors whose first dimension is the batch.

Shapes: B batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

State = Any  # a pytree (tuples, named tuples, lists, dictionaries) of tensors, batch first


def detach(state: State) -> State:
    """The same state, cut from the graph that made it (truncated back-propagation through time)."""
    return tree_map(Tensor.detach, state)


def reset_rows(state: State, reset_B: Tensor, initial: State) -> State:
    """``state`` with the rows where ``reset_B`` (bool, shape (B,)) is True taken from ``initial``.

    Gradients flow to ``initial`` in the rows that were reset and to ``state`` in the others.
    """

    def choose(leaf: Tensor, initial_leaf: Tensor) -> Tensor:
        return torch.where(reset_B.view(-1, *[1] * (leaf.dim() - 1)), initial_leaf, leaf)

    return tree_map(choose, state, initial)


def move(state: State, device: torch.device | str) -> State:
    """``state`` on ``device``."""
    return tree_map(lambda leaf: leaf.to(device), state)


def leaves(state: State) -> list[Tensor]:
    """The tensors of ``state`` in a fixed order."""
    return tree_leaves(state)
