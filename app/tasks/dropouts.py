"""The dropout layers of AWD-LSTM (Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", 2018).

All scale the remaining entries by 1 / (1 - p), and do nothing in evaluation mode.

Shapes: B batch, T time, H features, V words.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cells import Cell


class _MaskedDropout(nn.Module):
    """Base of dropout layers that draw masks of 0 and 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def mask(self, like: Tensor, *shape: int) -> Tensor:
        return like.new_empty(shape).bernoulli_(1 - self.p).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class LockedDropout(_MaskedDropout):
    """Dropout of features with one mask for all steps of a window. Each row has its own mask.

    Args:
        p: Probability of dropping a feature.
    """

    def forward(self, x_BTH: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x_BTH
        B, _, H = x_BTH.shape
        return x_BTH * self.mask(x_BTH, B, 1, H)


class WordDropout(_MaskedDropout):
    """Dropout of whole words: the embedding of a word is dropped in all its occurrences in a window, or in none.

    Args:
        p: Probability of dropping a word.
    """

    def forward(self, words_BT: Tensor, weight_VH: Tensor) -> Tensor:
        """Return the embeddings of ``words_BT``, rows of ``weight_VH``, after dropout."""
        x_BTH = F.embedding(words_BT, weight_VH)
        if not self.training or self.p == 0:
            return x_BTH
        return x_BTH * self.mask(weight_VH, len(weight_VH), 1)[words_BT]


def run_with_weight_dropout(cell: Cell, p: float, x_BTH: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Run a cell with dropout of the entries of its ``weight_hh``, with one mask for all steps and rows.

    The weight is replaced for this call only, as a function argument, so every engine supports it.
    """
    if not cell.training or p == 0:
        return cell(x_BTH, state)  # type: ignore[no-any-return]  # nn.Module's __call__ is untyped
    weights = {"weight_hh": F.dropout(cell.get_parameter("weight_hh"), p)}
    return functional_call(cell, weights, (x_BTH, state))  # type: ignore[no-any-return]
