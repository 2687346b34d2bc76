"""The non-saturating recurrent unit against its equations; its published size."""

import numpy as np
import pytest
import torch
from helpers import cell_builders
from torch import nn

from cells import NRU
from cells.nru import NRUState


def loop(memory, heads):
    def run(x, state, w):
        h, m = state
        outputs = []
        for t in range(x.shape[-2]):
            lead = np.broadcast_shapes(x.shape[:-2], h.shape[:-1], m.shape[:-1])
            parts = [np.broadcast_to(v, (*lead, v.shape[-1])) for v in (x[..., t, :], h, m)]
            h = _linear(np.concatenate(parts, -1), w["to_hidden.weight"], w["to_hidden.bias"])
            h = np.where(h.real > 0, h, 0)
            m = np.broadcast_to(m, (*h.shape[:-1], memory))
            out = _linear(np.concatenate([h, m], -1), w["to_heads.weight"], w["to_heads.bias"])
            s = int(np.sqrt(memory * heads))
            ends = np.cumsum([heads, heads, s, s, s])
            alpha, beta, p, q, p_erase, q_erase = np.split(out, ends, -1)
            for sign, strength, left, right in ((1, alpha, p, q), (-1, beta, p_erase, q_erase)):
                flat = (left[..., :, None] * right[..., None, :]).reshape(*left.shape[:-1], heads * memory)
                for k in range(heads):
                    v = flat[..., k * memory : (k + 1) * memory]
                    norm = ((v * np.sign(v.real)) ** 5).sum(-1, keepdims=True) ** 0.2
                    m = m + sign * strength[..., k : k + 1] * v / norm / heads
            outputs.append(h)
        return np.stack(outputs, -2), h, m

    return run


def _linear(x, weight, bias):
    return x @ np.swapaxes(weight, -1, -2) + bias[..., None, :]


@pytest.mark.parametrize(("memory", "heads", "T"), [(4, 1, 9), (9, 4, 6), (8, 2, 1)])
def test_equals_the_equations(memory, heads, T):
    cell = NRU(3, 5, memory=memory, heads=heads).double()
    x = torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True)
    state = NRUState(*(torch.rand(2, n, dtype=torch.float64, requires_grad=True) for n in (5, memory)))
    for what, difference in cell_builders.compare_loop(cell, x, state, loop(memory, heads)).items():
        assert difference < 1e-10, f"{what}: {difference:.1e}"


def test_published_classifier_has_the_published_size():
    """The layers of the public code for permuted MNIST have as many parameters."""
    model = nn.ModuleList([NRU(1, 212, memory=256, heads=4), nn.Linear(212, 10)])
    hidden, directions, strengths, head = 469 * 212 + 212, 2 * (468 * 64 + 64), 2 * (468 * 4 + 4), 2130
    assert sum(p.numel() for p in model.parameters()) == hidden + directions + strengths + head == 165_554


def test_memory_times_heads_must_be_a_square():
    with pytest.raises(ValueError, match="memory x heads must be the square of an integer, got 10 x 4"):
        NRU(1, 4, memory=10)
