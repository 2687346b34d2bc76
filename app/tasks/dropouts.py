"""The dropouts of AWD-LSTM (Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018).

All of them scale what is left by 1 / (1 - p), and do nothing outside of training.

Shapes: B batch, T time, H features, V words.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cells import Cell


class _MaskedDropout(nn.Module):
    """What both dropouts share: a probability and masks of 0 and 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def mask(self, like: Tensor, *shape: int) -> Tensor:
        return like.new_empty(shape).bernoulli_(1 - self.p).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class LockedDropout(_MaskedDropout):
    """Dropout of the same features in all steps of a window, other ones in each row.

    Args:
        p: Probability that a feature is dropped.
    """

    def forward(self, x_BTH: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x_BTH
        B, _, H = x_BTH.shape
        return x_BTH * self.mask(x_BTH, B, 1, H)


class WordDropout(_MaskedDropout):
    """Dropout of whole words: all of a window's occurrences of a word have its embedding, or none.

    Args:
        p: Probability that a word is dropped.
    """

    def forward(self, words_BT: Tensor, weight_VH: Tensor) -> Tensor:
        """The embeddings of ``words_BT``, rows of ``weight_VH``."""
        x_BTH = F.embedding(words_BT, weight_VH)
        if not self.training or self.p == 0:
            return x_BTH
        return x_BTH * self.mask(weight_VH, len(weight_VH), 1)[words_BT]


def run_with_weight_dropout(cell: Cell, p: float, x_BTH: Tensor, state: Any) -> tuple[Tensor, Any]:
    """A cell with some of the entries of its ``weight_hh`` dropped, the same ones in all steps and rows.

    The weight is replaced for this call only, as a function's argument, so this works under every engine.
    """
    if not cell.training or p == 0:
        return cell(x_BTH, state)  # type: ignore[no-any-return]  # nn.Module's __call__ is untyped
    weights = {"weight_hh": F.dropout(cell.get_parameter("weight_hh"), p)}
    return functional_call(cell, weights, (x_BTH, state))  # type: ignore[no-any-return]
