"""Cores with the parameters of torch's own recurrent layers.

Shapes: I input_size, H hidden_size, G = gates x H.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from cells.cores.base import Core
from cells.validation import one_of


class TorchCore(Core):
    """A core with the parameter names, shapes and gate order of torch's own layers.

    ``weight_ih`` has shape (G, I), ``weight_hh`` (G, H), ``bias_ih`` and ``bias_hh`` (G,).

    Args:
        bias: Whether the core has biases.
        init: Initialization. ``torch``: every parameter uniform in +-1/sqrt(H), as in torch's own layers.
            ``published``: W orthogonal, U = eye_ of the whole (G, H) matrix (the identity in the block of the first
            gate), biases 0 except those of the LSTM's forget gate, which are 1, as in the public code of MomentumRNN
            (NeurIPS 2020).

    Attributes:
        recurrent_inputs: Width of ``weight_hh``: the number of hidden units that a gate unit reads, by default all H.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        init: Literal["torch", "published"] = "torch",
        **core: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, **core)
        G = self.weight_ih.shape[0]
        self.init = one_of("init", init, ("torch", "published"))
        self.weight_hh = nn.Parameter(torch.empty(G, self.recurrent_inputs))
        self.bias_ih = nn.Parameter(torch.empty(G)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(G)) if bias else None
        self.reset_parameters()

    @property
    def recurrent_inputs(self) -> int:
        return self.hidden_size

    def reset_parameters(self) -> None:
        """Draw new initial parameters by the scheme ``init``."""
        if self.init == "torch":
            bound = self.hidden_size**-0.5
            for parameter in self.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.orthogonal_(self.weight_ih)
            nn.init.eye_(self.weight_hh)
            for bias in (self.bias_ih, self.bias_hh):
                if bias is not None:
                    nn.init.zeros_(bias)

    def recurrent_weight(self) -> Tensor:
        return self.weight_hh
