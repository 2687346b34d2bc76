"""The non-saturating recurrent unit: a memory that heads write and erase, without gates.

Shapes: B batch, I input_size, H hidden_size, M memory, k heads, S = sqrt(k M).
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cells.cell import Cell
from cells.state import State
from cells.validation import positive_int


class NRUState(NamedTuple):
    """h of shape (B, H) and the memory m of shape (B, M)."""

    h: Tensor
    m: Tensor


class NRU(Cell):
    """h_t = relu(W [x_t, h_{t-1}, m_{t-1}] + b); m_t = m_{t-1} + mean over heads of (alpha v - beta w).

    alpha, beta, p, q, p', q' = W' [h_t, m_{t-1}] + b': for each of k heads a strength alpha of writing and one, beta,
    of erasing; their directions v_1, .., v_k are the k M numbers of the outer product p q^T, M to a head in its order,
    each divided by its 5-norm, and w those of p' q'^T.

    Source: Chandar, Sankar, Vorontsov, Kahou and Bengio, "Towards Non-saturating Recurrent Units for Modelling
    Long-term Dependencies", AAAI 2019, and its public code (github.com/apsarath/NRU), which averages over the heads
    and, on permuted MNIST, applies no relu to what the heads write. That code initializes the output layer of the
    network with Xavier's scheme; here this layer belongs to the task, which keeps torch's. The memory is not bounded:
    untrained, with random inputs and 8 hidden units, its norm is 1e4 after 100 steps (17 with 212 units and a memory
    of 256).

    Args:
        input_size: Number of input features, I.
        hidden_size: Number of hidden units, H.
        memory: Number of cells of the memory, M.
        heads: Number of heads, k; k M must be the square of an integer.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, input_size: int, hidden_size: int, *, memory: int = 64, heads: int = 4) -> None:
        super().__init__(input_size, hidden_size)
        self.memory = positive_int("memory", memory)
        self.heads = positive_int("heads", heads)
        self.root = isqrt(memory * heads)
        if self.root**2 != memory * heads:
            raise ValueError(f"memory x heads must be the square of an integer, got {memory} x {heads}")
        self.to_hidden = nn.Linear(input_size + hidden_size + memory, hidden_size)
        self.to_heads = nn.Linear(hidden_size + memory, 2 * heads + 4 * self.root)

    def initial_state(self, batch_size: int) -> NRUState:
        weight = self.to_hidden.weight
        return NRUState(weight.new_zeros(batch_size, self.hidden_size), weight.new_zeros(batch_size, self.memory))

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, NRUState]:
        h, m = state
        h_BH = torch.relu(self.to_hidden(torch.cat([x_BI, h, m], 1))).to(m.dtype)
        alpha, beta, p, q, p_erase, q_erase = (
            self.to_heads(torch.cat([h_BH, m], 1)).to(m.dtype).split([self.heads] * 2 + [self.root] * 4, 1)
        )
        m_BM = m + self.directed(alpha, p, q) - self.directed(beta, p_erase, q_erase)
        return h_BH, NRUState(h_BH, m_BM)

    def directed(self, strength_Bk: Tensor, p_BS: Tensor, q_BS: Tensor) -> Tensor:
        """Return the mean over the heads of strength times direction."""
        v_BkM = (p_BS[:, :, None] * q_BS[:, None]).view(-1, self.heads, self.memory)
        return (strength_Bk[:, :, None] * F.normalize(v_BkM, p=5.0, dim=2)).mean(1)
