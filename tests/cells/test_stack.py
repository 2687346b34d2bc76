"""Layers of cells: equal to torch.nn.LSTM, to a loop over the layers, and to unpadded runs of each sequence.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cells import DTRIV, GRU, LSTM, NRU, AdamLSTM, MomentumLSTM, Stack, reset_rows
from cells.state import leaves

B, T, I, H = 4, 7, 3, 4  # noqa: E741
LENGTHS = torch.tensor([7, 2, 4, 2])
DEEP = {
    "layers": {"num_layers": 3},
    "residual": {"num_layers": 2, "residual": True, "norm": "layer"},
    "both": {"num_layers": 2, "bidirectional": True, "residual": True, "norm": "rms"},
}


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def lstm_pair(**options) -> tuple[nn.LSTM, Stack]:
    """Return torch's LSTM and a stack with the same weights."""
    expected, found = nn.LSTM(I, H, batch_first=True, **options), Stack(LSTM, I, H, **options)
    parts = {"": found.layers, "_reverse": found.reverse_layers}
    for direction, cells in parts.items():
        for number, cell in enumerate(cells):
            for name, parameter in cell.named_parameters():
                parameter.data.copy_(getattr(expected, f"{name}_l{number}{direction}"))
    assert sum(p.numel() for p in expected.parameters()) == sum(p.numel() for p in found.parameters())
    return expected, found


def of_torch(state, stack) -> list[torch.Tensor]:
    """Return (h, c) of torch, of shape (layers x directions, B, H), in the order of the leaves of a stack's state."""
    h, c = state
    return [tensor for number in range(len(h)) for tensor in (h[number], c[number])]


def flat(state) -> list[torch.Tensor]:
    """Return h and c of each layer and direction of a stack of LSTMs."""
    found = []
    for entry in state:
        for one in entry if isinstance(entry, tuple) and len(entry) == 2 and len(leaves(entry)) == 4 else [entry]:
            found += leaves(one)
    return found
