"""Ablations: equal to the cells that they should equal, and to their own equations."""

import numpy as np
import pytest
import torch
from helpers import cell_builders
from helpers.oracle import sigmoid
from torch.testing import assert_close

import cells
from cells.ablations import LinearState
from cells.cores.lstm import LSTMState


def make_input(T=20):
    return torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("engine", ["reference", "library"])
@pytest.mark.parametrize(("momentum", "step_size"), [(0.6, 0.6), (0.95, 0.1), (0.0, 2.0)])
def test_lstm_on_a_filtered_input_equals_momentum_lstm(momentum, step_size, engine):
    """Outputs and the gradients of all common parameters, over a sequence in two parts."""
    numbers = {"momentum": momentum, "step_size": step_size, "engine": engine}
    momentum_lstm = cell_builders.random_cell(cells.MomentumLSTM, 3, 5, **numbers)
    filtered = cells.FilteredLSTM(3, 5, **numbers).double()
    with torch.no_grad():
        both = torch.cat([momentum_lstm.weight_ih, momentum_lstm.bias_ih[:, None]], 1)
        filtered.lstm.weight_ih.copy_(both)
        filtered.lstm.weight_hh.copy_(momentum_lstm.weight_hh)
        filtered.lstm.bias_ih.zero_()
        filtered.lstm.bias_hh.copy_(momentum_lstm.bias_hh)
    x_BTI = make_input()
    results = []
    for cell in (momentum_lstm, filtered):
        first, state = cell(x_BTI[:, :8])
        second, _ = cell(x_BTI[:, 8:], state)
        lstm = getattr(cell, "lstm", cell)
        sources = x_BTI, lstm.weight_ih, lstm.weight_hh, lstm.bias_hh
        gradients = torch.autograd.grad((first.sum() + second.square().sum()), sources)
        results.append([first, second, gradients[0], gradients[1][:, :3], *gradients[2:]])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, rtol=0, atol=1e-12)


def test_scaled_lstm_equals_momentum_0():
    scaled = cell_builders.random_cell(cells.ScaledLSTM, 3, 5, step_size=0.4)
    momentum = cells.MomentumLSTM(3, 5, momentum=0.0, step_size=0.4).double()
    momentum.load_state_dict(scaled.state_dict())
    x_BTI = make_input()
    assert_close(scaled(x_BTI)[0], momentum(x_BTI)[0], rtol=0, atol=0)


def test_untrained_gate_equals_momentum():
    gated = cells.GatedMomentumLSTM(3, 5, momentum=0.7, step_size=0.4).double()
    momentum = cells.MomentumLSTM(3, 5, momentum=0.7, step_size=0.4).double()
    momentum.load_state_dict({name: w for name, w in gated.state_dict().items() if not name.startswith("drive.")})
    x_BTI = make_input()
    assert_close(gated(x_BTI)[0], momentum(x_BTI)[0], rtol=0, atol=1e-7)  # the bias was initialized in float32


def test_learned_momentum_learns_by_default():
    names = {name for name, _ in cells.LearnedMomentumLSTM(3, 5).named_parameters()}
    assert {"drive.momentum.raw", "drive.step_size.raw"} < names


@pytest.mark.parametrize("engine", ["reference", "library", "fused"])
def test_linear_state_equals_its_equations(engine):
    cell = cells.LinearStateLSTM(3, 5, linear_units=4, engine=engine).double()
    state = LinearState(
        torch.randn(2, 4, dtype=torch.float64, requires_grad=True),
        cell.lstm.initial_state(2)._replace(
            core=LSTMState(*(torch.randn(2, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)))
        ),
    )

    def loop(x, state, w):
        n, h, c = state
        decay = sigmoid(w["raw_decay"])[..., None, :]
        outputs = []
        for t in range(x.shape[-2]):
            x_t = x[..., t, :]
            n = decay * n + (1 - decay) * (x_t @ np.swapaxes(w["to_linear.weight"], -1, -2) + row(w["to_linear.bias"]))
            x_t = np.broadcast_to(x_t, (*n.shape[:-1], 3))
            z = np.concatenate([x_t, n], -1) @ np.swapaxes(w["lstm.weight_ih"], -1, -2) + row(w["lstm.bias_ih"])
            z = z + h @ np.swapaxes(w["lstm.weight_hh"], -1, -2) + row(w["lstm.bias_hh"])
            i, f, g, o = np.split(z, 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs, -2), n, h, c

    for what, difference in cell_builders.compare_loop(cell, make_input(), state, loop).items():
        assert difference < 1e-10, f"{what}: {difference:.1e}"


def row(bias):
    return bias[..., None, :]


def test_linear_units_start_with_times_on_a_logarithmic_scale():
    decay_N = torch.sigmoid(cells.LinearStateLSTM(1, 2, linear_units=3, longest=200.0).raw_decay)
    assert_close(1 / (1 - decay_N), torch.tensor([2.0, 20.0, 200.0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (cells.FilteredLSTM, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        (cells.GatedMomentumLSTM, {"momentum": 0.0}, r"momentum must be in \(0, 1\), got 0.0"),
        (cells.ScaledLSTM, {"step_size": 0}, r"step_size must be in \(0, inf\), got 0"),
        (cells.LinearStateLSTM, {"linear_units": 0}, "linear_units must be a positive integer, got 0"),
        (cells.LinearStateLSTM, {"longest": 1}, r"longest must be in \(1, inf\), got 1"),
    ],
)
def test_invalid_argument_raises(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(1, 4, **arguments)
