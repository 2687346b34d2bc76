"""Gated cells: chrono and uniform initialization; JANET and the UR cells from the equations of other cells."""

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import cell_builders
from torch.testing import assert_close

import cells

H = 1000


def resting_bias(cell, block):
    return (cell.bias_ih + cell.bias_hh).detach().view(cell.gates, -1)[block]


@pytest.mark.parametrize(
    ("build", "keeps", "admits"),
    [
        (cells.LSTM, 1, 0),
        (cells.ChronoLSTM, 1, 0),
        (cells.GRU, 1, None),
        (cells.ChronoGRU, 1, None),
        (cells.JANET, 0, None),
        (cells.MomentumLSTM, 1, 0),
        (cells.AdamJANET, 0, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_chrono_biases_have_the_density_of_the_paper(build, keeps, admits):
    """e^b is uniform in (1, T_max - 1), so b is in (0, log(T_max - 1)); b_hh holds it, which no drive amplifies."""
    cell = build(1, H, max_timescale=784)
    b_H = resting_bias(cell, keeps)
    assert b_H.min() >= 0
    assert b_H.max() <= np.log(783) + 1e-6
    assert scipy.stats.kstest(b_H.exp().numpy(), scipy.stats.uniform(1, 782).cdf).pvalue > 0.01
    assert not cell.bias_ih.view(cell.gates, -1)[keeps].any()
    if admits is not None:
        assert torch.equal(resting_bias(cell, admits), -b_H)


def test_chrono_leaves_the_other_gates_unchanged():
    chrono, plain = cells.GRU(1, 300, max_timescale=50), cells.GRU(1, 300)
    for block in (0, 2):
        assert resting_bias(chrono, block).abs().max() <= resting_bias(plain, block).abs().max() * 1.1


@pytest.mark.parametrize("build", [cells.URLSTM, cells.URGRU])
def test_uniform_gates(build):
    """The initial forget gate is uniform over the units in (1/H, 1 - 1/H), and the refine gate is its complement."""
    cell = build(1, H)
    f, r = torch.sigmoid(resting_bias(cell, 0)), torch.sigmoid(resting_bias(cell, 1))
    assert f.min() >= 1 / H * 0.999
    assert f.max() <= 1 - 1 / H * 0.999
    assert scipy.stats.kstest(f.numpy(), scipy.stats.uniform.cdf).pvalue > 0.01
    assert_close(r, 1 - f, rtol=0, atol=1e-6)


def random_cell(build, **arguments):
    return cell_builders.random_cell(build, 3, 5, **arguments)


def test_janet_is_an_lstm_with_tied_gates_and_no_output_gate():
    """c = f c + (1 - f') tanh(g) step by step by an LSTM with i = -(f - lag).

    The output of the LSTM would be tanh(c), so the test passes its c back as h.
    """
    janet = random_cell(cells.JANET, lag=1.0)
    lstm = random_cell(cells.LSTM)
    W_f, W_g = janet.weight_ih.chunk(2)
    U_f, U_g = janet.weight_hh.chunk(2)
    b_f, b_g = (janet.bias_ih + janet.bias_hh).chunk(2)
    with torch.no_grad():
        lstm.weight_ih.copy_(torch.cat([-W_f, W_f, W_g, 0 * W_g]))
        lstm.weight_hh.copy_(torch.cat([-U_f, U_f, U_g, 0 * U_g]))
        lstm.bias_ih.copy_(torch.cat([1.0 - b_f, b_f, b_g, 0 * b_g]))
        lstm.bias_hh.zero_()
    x_BTI = torch.randn(2, 12, 3, dtype=torch.float64)
    expected, _ = janet(x_BTI)
    state = lstm.initial_state(2)
    for t in range(12):
        _, state = lstm.step(x_BTI[:, t], state)
        state = state._replace(core=state.core._replace(h=state.core.c))
        assert_close(state.core.c, expected[:, t], rtol=0, atol=1e-12)


@pytest.mark.parametrize("build", [cells.URLSTM, cells.URGRU])
def test_half_open_refine_gate_leaves_the_forget_gate_unchanged(build):
    """With r = 1/2, g = 2 r f + (1 - 2 r) f^2 = f: an LSTM with i = -f, a GRU with z = f."""
    cell = random_cell(build)
    blocks = {"f": 0, "r": 1, "s": 2, "n": 3} if build is cells.URGRU else {"f": 0, "r": 1, "p": 2, "o": 3}
    with torch.no_grad():
        for parameter in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh):
            parameter.view(4, 5, -1)[1] = 0
    part = {
        name: {gate: tensor.detach().chunk(4)[block] for gate, block in blocks.items()}
        for name, tensor in cell.named_parameters()
    }
    plain = random_cell(cells.GRU if build is cells.URGRU else cells.LSTM)
    for name, p in part.items():
        gates = [p["s"], p["f"], p["n"]] if build is cells.URGRU else [-p["f"], p["f"], p["p"], p["o"]]
        plain.get_parameter(name).data.copy_(torch.cat(gates))
    x_BTI = torch.randn(2, 12, 3, dtype=torch.float64)
    assert_close(cell(x_BTI)[0], plain(x_BTI)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("r", "power"), [(-100.0, lambda f: f**2), (100.0, lambda f: 1 - (1 - f) ** 2)])
def test_closed_and_open_refine_gates_give_the_limits(r, power):
    f = torch.linspace(-3, 3, 13, dtype=torch.float64)
    assert_close(cells.URLSTM.refined(f, torch.tensor(r, dtype=torch.float64)), power(torch.sigmoid(f)))


@pytest.mark.parametrize("drive", ["Momentum", "SR", "RMSProp", "Adam"])
@pytest.mark.parametrize("core", ["JANETCore", "URLSTMCore", "URGRUCore", "HouseholderCore", "UnitaryCore"])
def test_every_drive_runs_with_every_core(drive, core):
    modules = (cells.cores.janet, cells.cores.refined_gates, cells.cores.householder, cells.cores.unitary)
    base = next(getattr(module, core) for module in modules if hasattr(module, core))
    name = drive + core.removesuffix("Core") + ("RNN" if core in ("HouseholderCore", "UnitaryCore") else "")
    cell = cell_builders.random_cell(type(name, (getattr(cells.driven, f"{drive}Driven"), base), {}), 3, 4)
    x_BTI = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    for what, difference in cell_builders.compare(cell, x_BTI, cell_builders.random_state(cell, 2)).items():
        assert difference < 1e-10, f"{what}: {difference:.1e}"


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (cells.LSTM, {"max_timescale": 2}, r"max_timescale must be in \(2, inf\), got 2"),
        (cells.GRU, {"max_timescale": 9, "bias": False}, "max_timescale must be None without biases .*, got 9"),
        (
            cells.LSTM,
            {"max_timescale": 9, "forget_bias": 1.0},
            "forget_bias must be None if max_timescale sets the bias .9., got 1.0",
        ),
        (cells.JANET, {"lag": -1}, r"lag must be in \[0, inf\), got -1"),
        (cells.URLSTM, {"bias": False}, "bias must be True for URLSTM, whose initialization sets it, got False"),
    ],
)
def test_invalid_argument_raises(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(1, 4, **arguments)
