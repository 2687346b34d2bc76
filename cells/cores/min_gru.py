"""minGRU, a gated recurrent unit whose gates see the input alone, with drives.

Shapes: H hidden_size, G = 2 x H.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from cells.cores.input_gated import InputGatedCore
from cells.driven import IdentityDriven, MomentumDriven
from cells.validation import one_of

Candidate = Literal["positive", "identity"]


def candidate_of(kind: Candidate, a: Tensor) -> Tensor:
    """Return g(a) of :class:`MinGRUCore`."""
    return a if kind == "identity" else torch.where(a >= 0, a + 0.5, torch.sigmoid(a))


class MinGRUCore(InputGatedCore):
    """z, c = v_t; h_t = (1 - sig(z)) h_{t-1} + sig(z) g(c).

    Source: Feng, Tung, Hajimirsadeghi, Ahmed and Bengio, "Were RNNs All We Needed?", 2024 (arXiv 2410.01201).

    Args:
        candidate: g. ``positive`` is that of the appendix of the paper: g(c) = c + 0.5 for c >= 0, else sig(c). The
            state is then positive, as the scan over logarithms in the public code requires. ``identity`` is that of
            the main text, g(c) = c; the state then has either sign.
    """

    gates = 2
    gate_names = ("z", "c")
    keeps_name = "complement of the update gate"
    bounded = False

    def __init__(self, input_size: int, hidden_size: int, *, candidate: Candidate = "positive", **core: Any) -> None:
        self.candidate = one_of("candidate", candidate, ("positive", "identity"))
        super().__init__(input_size, hidden_size, **core)

    def coefficients(self, v: Tensor) -> tuple[Tensor, Tensor]:
        z, c = v.chunk(2, -1)
        return torch.sigmoid(-z), torch.sigmoid(z) * candidate_of(self.candidate, c)

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        z, _ = v_BG.chunk(2, -1)
        return {"z": torch.sigmoid(z)}


class MinGRU(IdentityDriven, MinGRUCore):
    """h_t = (1 - z) h_{t-1} + z g(c); z = sig(W_z x_t + b_z), c = W_c x_t + b_c, g(c) = c + 0.5 if c >= 0 else sig(c).

    Neither gate nor candidate sees h, so that all steps can be computed at once.

    Source: Feng, Tung, Hajimirsadeghi, Ahmed and Bengio, "Were RNNs All We Needed?", 2024 (arXiv 2410.01201).
    """


class MomentumMinGRU(MomentumDriven, MinGRUCore):
    """MinGRU with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t.

    The drive gives the gates a memory of earlier inputs.

    The momentum of Nguyen et al. (NeurIPS 2020) on the core of Feng et al. (2024).
    """
