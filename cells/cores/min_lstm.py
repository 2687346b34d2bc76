"""minLSTM, a long short-term memory whose gates see the input alone, with drives.

Shapes: H hidden_size, G = 3 x H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cells.cores.input_gated import InputGatedCore
from cells.cores.min_gru import Candidate, candidate_of
from cells.driven import IdentityDriven, MomentumDriven
from cells.validation import one_of


class MinLSTMCore(InputGatedCore):
    """f, i, c = v_t; h_t = f' h_{t-1} + i' g(c), f' = sig(f) / (sig(f) + sig(i)), i' = 1 - f'.

    Source: Feng, Tung, Hajimirsadeghi, Ahmed and Bengio, "Were RNNs All We Needed?", 2024 (arXiv 2410.01201), the
    variant with normalized gates.

    Args:
        candidate: g. ``positive``: g(c) = c + 0.5 for c >= 0, else sig(c), as in the appendix of the paper.
            ``identity``: g(c) = c, as in its main text.
    """

    gates = 3
    gate_names = ("f", "i", "c")
    bounded = False

    def __init__(self, input_size: int, hidden_size: int, *, candidate: Candidate = "positive", **core: Any) -> None:
        self.candidate = one_of("candidate", candidate, ("positive", "identity"))
        super().__init__(input_size, hidden_size, **core)

    def coefficients(self, v: Tensor) -> tuple[Tensor, Tensor]:
        f, i, c = v.chunk(3, -1)
        # f' = (1 + e^-i) / (2 + e^-i + e^-f), with both sides divided by the largest term e^m, so that none overflows
        m = torch.maximum(torch.maximum(-f, -i), torch.zeros_like(f)).detach()
        by_i, by_f = torch.exp(-m) + torch.exp(-i - m), torch.exp(-m) + torch.exp(-f - m)
        total = by_i + by_f
        return by_i / total, by_f / total * candidate_of(self.candidate, c)

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        keep_BH, _ = self.coefficients(v_BG)
        return {"f": keep_BH}


class MinLSTM(IdentityDriven, MinLSTMCore):
    """h_t = (f h_{t-1} + i g(c)) / (f + i); f, i = sig(W x_t + b), c = W_c x_t + b_c, g(c) = max(c + 0.5, sig(c)).

    No gate sees h, so that all steps can be computed at once.

    Source: Feng, Tung, Hajimirsadeghi, Ahmed and Bengio, "Were RNNs All We Needed?", 2024 (arXiv 2410.01201).
    """


class MomentumMinLSTM(MomentumDriven, MinLSTMCore):
    """MinLSTM with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t.

    The drive gives the gates a memory of earlier inputs.

    The momentum of Nguyen et al. (NeurIPS 2020) on the core of Feng et al. (2024).
    """
