"""The engine ``library``: torch's own recurrent kernels.

Shapes: B batch, T time, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cells.engines.choice import EngineCell
from cells.engines.precision import no_autocast


def run_library(
    cell: EngineCell, u_BTD: Tensor, weight_GD: Tensor, bias_G: Tensor | None, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The core by torch's own kernel, on inputs u with v_t = W u_t + b.

    Under autocast the kernel gets the low precision, explicitly: torch's own autocast rules for recurrent layers differ
    between devices and layers. Outputs and states come back in the dtype of the parameters.
    """
    assert cell.kernel is not None  # choose_engine saw to it
    weight_GH = cell.recurrent_weight()
    dtype = weight_GH.dtype
    device = u_BTD.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
    bias_hh_G = cell.bias_hh
    weights = [weight_GD, weight_GH]
    if bias_hh_G is not None:
        weights += [torch.zeros_like(bias_hh_G) if bias_G is None else bias_G, bias_hh_G]
    with no_autocast(u_BTD):
        hidden = tuple(leaf.to(low).unsqueeze(0) for leaf in state)
        y_BTH, *last = cell.kernel(
            u_BTD.to(low),
            hidden if len(hidden) > 1 else hidden[0],
            [weight.to(low) for weight in weights],
            bias_hh_G is not None,
            1,  # layers
            0.0,  # dropout
            torch.is_grad_enabled(),  # "train": keeps what the backward pass needs, also of a cell in eval mode
            False,  # bidirectional
            True,  # batch first
        )
    return y_BTH.to(dtype), tuple(leaf.squeeze(0).to(dtype) for leaf in last)
