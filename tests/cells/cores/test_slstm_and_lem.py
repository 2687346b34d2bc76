"""sLSTM: heads, stabilizer, forget gates. LEM: its bound. Both fit in front of every engine (test_cells.py)."""

import numpy as np
import pytest
import torch
from helpers import cell_builders
from torch.testing import assert_close

import cells


def unstabilized(cell, x_BTI):
    """The outputs by the equations of the paper without the stabilizer, head by head, in numpy."""
    sig = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    W, R, bias = (p.detach().numpy() for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh))
    H, N = cell.hidden_size, cell.heads
    d = H // N
    h, c, n = (np.zeros((len(x_BTI), H)) for _ in range(3))
    outputs = []
    for x in x_BTI.numpy().swapaxes(0, 1):
        a = x @ W.T + bias
        for gate in range(4):
            for head in range(N):
                rows = slice(gate * H + head * d, gate * H + (head + 1) * d)
                a[:, rows] += h[:, head * d : (head + 1) * d] @ R[rows].T
        i, f, z, o = np.split(a, 4, -1)
        f = np.exp(f) if cell.forget_gate == "exponential" else sig(f)
        c, n = f * c + np.exp(i) * np.tanh(z), f * n + np.exp(i)
        h = sig(o) * c / n
        outputs.append(h)
    return np.stack(outputs, 1)


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exponential"])
@pytest.mark.parametrize("heads", [1, 2, 3, 6])
@pytest.mark.parametrize("engine", ["reference", "fused"])
def test_slstm_equals_the_equations_without_stabilizer(heads, forget_gate, engine):
    cell = cell_builders.random_cell(cells.SLSTM, 3, 6, heads=heads, forget_gate=forget_gate, engine=engine)
    x_BTI = torch.randn(2, 12, 3, dtype=torch.float64)
    expected = torch.from_numpy(unstabilized(cell, x_BTI))
    assert_close(cell(x_BTI)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("arguments", [{"heads": 3}, {"heads": 2, "forget_gate": "exponential"}])
def test_slstm_with_heads_equals_the_oracle(arguments):
    for engine in ("reference", "fused"):
        cell = cell_builders.random_cell(cells.MomentumSLSTM, 3, 6, engine=engine, **arguments)
        x_BTI = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
        for what, difference in cell_builders.compare(cell, x_BTI, cell_builders.random_state(cell, 2)).items():
            assert difference < 1e-10, f"{what} by {engine}: {difference:.1e}"


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize("bias", [200.0, -200.0])
def test_slstm_with_extreme_input_gates_is_finite(bias, engine):
    """e^200 is beyond float32. A constant input gate cancels, so that its size does not matter."""
    cell = cells.SLSTM(3, 4, engine=engine, forget_gate="exponential")
    x_BTI = torch.randn(2, 20, 3)
    with torch.no_grad():
        cell.weight_ih[:4] = 0
        cell.weight_hh[:4] = 0
    expected, _ = cell(x_BTI)
    with torch.no_grad():
        cell.bias_ih[:4] += bias
    y_BTH, state = cell(x_BTI)
    assert_close(y_BTH, expected, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(y_BTH.sum(), list(cell.parameters()))
    assert all(leaf.isfinite().all() for leaf in (*state.core, *gradients))


def test_slstm_has_fewer_weights_with_heads():
    assert cells.SLSTM(3, 8, heads=4).weight_hh.shape == (32, 2)
    whole_GH = cells.SLSTM(3, 8, heads=4).recurrent_weight()
    assert whole_GH.shape == (32, 8)
    assert (whole_GH != 0).sum() == 32 * 2


def test_slstm_arguments():
    with pytest.raises(ValueError, match="heads must divide hidden_size = 6, got 4"):
        cells.SLSTM(3, 6, heads=4)
    with pytest.raises(ValueError, match="max_timescale must be None for the forget gate 'exponential'"):
        cells.SLSTM(3, 6, forget_gate="exponential", max_timescale=50.0)
    assert cells.SLSTM(3, 6, max_timescale=50.0).resting_forget_bias().min() >= 0
    assert cells.SLSTM(3, 6, forget_gate="exponential").resting_forget_bias() is None


def test_lem_is_bounded_and_keeps_its_state_with_small_time_steps():
    cell = cells.LEM(3, 5, dt=1e-3)
    y_BTH, _ = cell(100 * torch.randn(2, 50, 3))
    assert y_BTH.abs().max() <= 50 * 1e-3
    y_BTH, _ = cells.LEM(3, 5)(100 * torch.randn(2, 50, 3))
    assert y_BTH.abs().max() <= 1
    with pytest.raises(ValueError, match=r"dt must be in \(0, 1\], got 1.5"):
        cells.LEM(3, 5, dt=1.5)
