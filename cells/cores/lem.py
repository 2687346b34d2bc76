"""Long expressive memory: two states, each with learned time steps, with drives.

Shapes: B batch, H hidden_size, G = 4 x H.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cells.cores.torch_core import TorchCore
from cells.driven import IdentityDriven, MomentumDriven
from cells.introspection import Flops
from cells.validation import number_in


class LEMState(NamedTuple):
    """The hidden state h, which is y in the paper, and z, each of shape (B, H)."""

    h: Tensor
    z: Tensor


class LEMCore(TorchCore):
    """A step of z by the time step dt sig(v_1 + u_1), then a step of h by the time step dt sig(v_2 + u_2).

    d_1 = dt sig(v_1 + u_1); z_t = (1 - d_1) z_{t-1} + d_1 tanh(v_z + u_z);
    d_2 = dt sig(v_2 + u_2); h_t = (1 - d_2) h_{t-1} + d_2 tanh(v_y + U_y z_t + b_y).

    The blocks of W and U are in the order 1, 2, z, y. The last block of U multiplies z_t, the others h_{t-1}. The
    initialization ``torch`` is that of the public code.

    Source: Rusch, Mishra, Erichson and Mahoney, "Long Expressive Memory for Sequence Modeling", ICLR 2022 (arXiv
    2110.04744).

    Args:
        dt: Longest time step, in (0, 1].
    """

    gates = 4
    gate_names = ("1", "2", "z", "y")

    def __init__(self, input_size: int, hidden_size: int, *, dt: float = 1.0, **core: Any) -> None:
        self.dt = number_in("(0, 1]", "dt", dt)
        super().__init__(input_size, hidden_size, **core)

    def initial_core_state(self, zeros_BH: Tensor) -> LEMState:
        return LEMState(zeros_BH, zeros_BH.clone())

    def recurrent_product(self, weight_GH: Tensor, state: LEMState) -> Tensor:
        of_h = slice(3 * self.hidden_size)
        return self.linear(state.h, weight_GH[of_h], None if self.bias_hh is None else self.bias_hh[of_h])

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: LEMState) -> tuple[Tensor, LEMState]:
        v_1, v_2, v_z, v_y = v_BG.chunk(4, -1)
        u_1, u_2, u_z = u_BG.chunk(3, -1)
        of_z = slice(3 * self.hidden_size, None)
        z_BH = state.z + self.dt * torch.sigmoid(v_1 + u_1) * (torch.tanh(v_z + u_z) - state.z)
        u_y = self.linear(z_BH, self.weight_hh[of_z], None if self.bias_hh is None else self.bias_hh[of_z])
        h_BH = state.h + self.dt * torch.sigmoid(v_2 + u_2) * (torch.tanh(v_y + u_y) - state.h)
        return h_BH, LEMState(h_BH, z_BH)

    def open_gates(self, v_BG: Tensor, u_BG: Tensor) -> dict[str, Tensor]:
        H = self.hidden_size
        open_1, open_2 = torch.sigmoid(v_BG[:, : 2 * H] + u_BG[:, : 2 * H]).chunk(2, -1)
        return {"1": open_1, "2": open_2}

    def product_flops(self, T: int, batch: int, D: int, *, input_grad: bool) -> Flops:
        forward, backward = super().product_flops(T, batch, D, input_grad=input_grad)
        return Flops(forward, backward + 2 * batch * self.hidden_size**2)  # z gets a gradient in the first step too


class LEM(IdentityDriven, LEMCore):
    """z_t = z + d_1 (tanh(a_z + U_z h) - z), h_t = h + d_2 (tanh(a_y + U_y z_t) - h); d_k = dt sig(a_k + U_k h).

    On the right, h and z are those of the step before. a = W x_t + b_ih, and the products with U have the bias b_hh.

    Source: Rusch, Mishra, Erichson and Mahoney, "Long Expressive Memory for Sequence Modeling", ICLR 2022 (arXiv
    2110.04744).
    """


class MomentumLEM(MomentumDriven, LEMCore):
    """LEM with v_t in place of a_t = W x_t + b_ih: v_t = mu v_{t-1} + s a_t.

    The momentum of Nguyen et al. (NeurIPS 2020) on the core of Rusch et al. (ICLR 2022).
    """
