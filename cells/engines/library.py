"""The engine ``library``: torch's own recurrent kernels.

Shapes: B batch, T time, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cells.engines.precision import no_autocast


class LibraryWeights(NamedTuple):
    """Weights of one layer for torch's kernels.

    Attributes:
        weight_ih: Of shape (G, D).
        weight_hh: Of shape (G, H).
        bias_ih: Of shape (G,); None means 0.
        bias_hh: Of shape (G,); None means that the layer has no biases.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None


def run_library(
    kernel: Callable[..., Any], x_BTD: Tensor, weights: LibraryWeights, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a kernel of torch on the inputs ``x_BTD``.

    Under autocast the kernel gets the low precision explicitly, because torch's own autocast rules for recurrent layers
    differ between devices and layers.

    Args:
        kernel: ``torch.lstm``, ``torch.gru`` or ``torch.rnn_tanh``.
        x_BTD: Inputs.
        weights: The weights.
        state: h (and c) before the first step, each of shape (B, H).

    Returns:
        The outputs y_BTH and the last state, in the dtype of the weights.
    """
    dtype = weights.weight_hh.dtype
    device = x_BTD.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
    tensors = [weights.weight_ih, weights.weight_hh]
    if weights.bias_hh is not None:
        bias_ih_G = torch.zeros_like(weights.bias_hh) if weights.bias_ih is None else weights.bias_ih
        tensors += [bias_ih_G, weights.bias_hh]
    with no_autocast(x_BTD):
        hidden = tuple(leaf.to(low).unsqueeze(0) for leaf in state)
        y_BTH, *last = kernel(
            x_BTD.to(low),
            hidden if len(hidden) > 1 else hidden[0],
            [tensor.to(low) for tensor in tensors],
            weights.bias_hh is not None,
            1,  # layers
            0.0,  # dropout
            torch.is_grad_enabled(),  # "train": keeps what the backward pass needs, also in eval mode
            False,  # bidirectional
            True,  # batch first
        )
    # view instead of squeeze: torch.compile assumes that the last states of torch.lstm have two dimensions
    last_state = (leaf.view(given.shape).to(dtype, copy=True) for leaf, given in zip(last, state, strict=True))
    return y_BTH.to(dtype), tuple(last_state)
