"""The closed-form continuous-time cell: an interpolation between two candidates over time.

Shapes: B batch, I input_size, H hidden_size, K units of the backbone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from cells.cell import Cell
from cells.engines.choice import Engine, check_engine
from cells.engines.fused import run_fused
from cells.engines.precision import product_dtype
from cells.state import State
from cells.validation import number_in, one_of, positive_int


class CfC(Cell):
    """h_t = (1 - s) tanh(f) + s tanh(g), s = sig(a dt + b); f, g, a, b = W k(x_t, h_{t-1}) + c.

    k is the backbone, a network of ``backbone_layers`` layers k = 1.7159 tanh(0.666 (V k' + d)) on [x_t, h_{t-1}]. A
    drive does not fit in front of this cell, because its first product is that of the backbone, not of gates.

    Parameters: ``backbone`` with V and d of each layer; ``heads`` with W and c, whose rows are f, g, a and b in this
    order.

    Initialization: each block of W and each V by Xavier's uniform scheme; biases uniform in +-1/sqrt(fan-in), as in
    torch.nn.Linear.

    Source: Hasani, Lechner, Amini, Liebenwein, Ray, Tschaikowski, Teschl and Rus, "Closed-form continuous-time neural
    networks", Nature Machine Intelligence 2022, and its public code (github.com/mlech26l/ncps).

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of hidden units, H.
        backbone_units: Number of units of each layer of the backbone, K.
        backbone_layers: Number of its layers; 0 applies W to [x_t, h_{t-1}].
        mode: ``default`` as above. ``no_gate``: h_t = tanh(f) + s tanh(g).
        dt: Time between two steps, above 0.
        engine: ``reference``, ``fused`` or ``auto``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        backbone_units: int = 128,
        backbone_layers: int = 1,
        mode: Literal["default", "no_gate"] = "default",
        dt: float = 1.0,
        engine: Engine = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size)
        positive_int("backbone_units", backbone_units)
        if not isinstance(backbone_layers, int) or isinstance(backbone_layers, bool) or backbone_layers < 0:
            raise ValueError(f"backbone_layers must be 0 or a positive integer, got {backbone_layers!r}")
        self.mode = one_of("mode", mode, ("default", "no_gate"))
        self.dt = number_in("(0, inf)", "dt", dt)
        self.engine = engine
        check_engine(self)
        widths = [input_size + hidden_size, *[backbone_units] * backbone_layers]
        self.backbone = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.heads = nn.Linear(widths[-1], 4 * hidden_size)
        for weight in (*(layer.weight for layer in self.backbone), *self.heads.weight.chunk(4)):
            nn.init.xavier_uniform_(weight)  # type: ignore[arg-type]  # mypy does not know the layers of a ModuleList

    def initial_state(self, batch_size: int) -> Tensor:
        return self.heads.weight.new_zeros(batch_size, self.hidden_size)

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, Tensor]:
        k_BK = torch.cat([x_BI, state], -1)
        for layer in self.backbone:
            k_BK = 1.7159 * torch.tanh(0.666 * layer(k_BK).to(state.dtype))
        f, g, a, b = self.heads(k_BK).to(state.dtype).chunk(4, -1)
        s_BH = torch.sigmoid(a * self.dt + b)
        kept_BH = torch.tanh(f) if self.mode == "no_gate" else (1 - s_BH) * torch.tanh(f)
        h_BH = kept_BH + s_BH * torch.tanh(g)
        return h_BH, h_BH

    def run_fused(self, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
        return run_fused(self.step, x_BTI, state, product_dtype(self.heads.weight))
