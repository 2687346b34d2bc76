"""The dropout layers of AWD-LSTM."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from app.tasks.dropouts import LockedDropout, WordDropout, run_with_weight_dropout
from cells import MomentumLSTM


def test_locked_dropout_has_one_mask_for_all_steps():
    dropout = LockedDropout(0.3)
    x = torch.ones(200, 5, 40)
    y = dropout(x)
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(y[0], y[1])
    assert dropout.eval()(x) is x


def test_word_dropout_drops_all_occurrences_of_a_word():
    weight = torch.ones(500, 3)
    text = torch.arange(500).repeat(2, 2)
    y = WordDropout(0.2)(text, weight)
    assert torch.equal(y[0, :500], y[1, 500:])
    assert torch.equal(y[..., 0], y[..., 2])
    assert (y == 0).float().mean().item() == pytest.approx(0.2, abs=0.05)
    assert y.max().item() == pytest.approx(1 / 0.8)
    assert torch.equal(WordDropout(0.2).eval()(text, weight), torch.ones(2, 1000, 3))


@pytest.mark.parametrize("engine", ["library", "fused", "reference"])
def test_weight_dropout_acts_on_the_recurrent_weight_under_every_engine(engine):
    cell = MomentumLSTM(4, 6, engine=engine).double()
    x, state = torch.randn(2, 5, 4).double(), cell.initial_state(2)
    torch.manual_seed(3)
    y, _ = run_with_weight_dropout(cell, 0.5, x, state)
    (y**2).sum().backward()
    torch.manual_seed(3)
    kept = F.dropout(torch.ones_like(cell.weight_hh), 0.5)
    other = MomentumLSTM(4, 6, engine="reference").double()
    other.load_state_dict({**cell.state_dict(), "weight_hh": cell.weight_hh.detach() * kept})
    expected, _ = other(x)
    (expected**2).sum().backward()
    assert 0 < (kept == 0).sum() < kept.numel()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(cell.weight_hh.grad, other.weight_hh.grad * kept)
    torch.testing.assert_close(cell.weight_ih.grad, other.weight_ih.grad)
    undropped, _ = run_with_weight_dropout(cell.eval(), 0.5, x, state)
    assert torch.equal(undropped, cell(x)[0])
