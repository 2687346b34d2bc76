"""Statistics of the state of a cell, and its Jacobians, against formulas."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import cell_builders
from helpers.cell_builders import BUILT_IN, DRIVEN
from torch import Tensor, nn
from torch.testing import assert_close

from cells import DTRIV, GRU, LSTM, RNN, Cell, MomentumRNN
from cells.analysis.dynamics import dynamics, half_life, recurrent_spectra
from cells.analysis.jacobians import jacobians
from cells.analysis.recording import recording

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def record_of(cell, x_BTI):
    with torch.no_grad(), recording(cell) as record:
        cell(x_BTI)
    return record


class Leaky(Cell):
    """h_t = leak h_{t-1} + x_t."""

    def __init__(self, input_size, hidden_size, *, leak=0.9):
        super().__init__(input_size, hidden_size)
        self.leak = leak
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def initial_state(self, batch_size):
        return self.weight.new_zeros(batch_size, self.hidden_size)

    def step(self, x_BI: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h_BH = self.leak * state * self.weight + x_BI.sum(-1, keepdim=True)
        return h_BH, h_BH


@pytest.mark.parametrize("leak", [0.5, 0.9, 0.97])
def test_half_life_of_a_leak_is_that_of_an_exponential(leak):
    record = record_of(Leaky(1, 3, leak=leak), torch.randn(4, 120, 1, dtype=torch.float64))
    assert half_life(record) == math.floor(math.log(0.5) / math.log(leak)) + 1


def test_half_life_is_infinite_without_forgetting():
    record = record_of(Leaky(1, 3, leak=1.0), torch.randn(4, 30, 1, dtype=torch.float64))
    assert half_life(record) == math.inf


def test_closed_and_open_gates():
    cell = LSTM(1, 4).double()
    with torch.no_grad():
        cell.bias_ih.copy_(torch.tensor([-9.0, 9.0, 0.0, 0.0]).repeat_interleave(4))
    found = dynamics(record_of(cell, torch.zeros(2, 5, 1, dtype=torch.float64)))
    assert found.gates["i"] == (1, 0)
    assert found.gates["f"] == (0, 1)
    assert found.gates["o"] == (0, 0)
    assert found.zero_units == 0
    assert found.half_life["h"] < 5
    assert found.half_life["c"] == math.inf  # the forget gate is open by sig(9)


@pytest.mark.parametrize("name", ["GRU", "AdamGRU", "NesterovGRU", "MomentumLSTM", "NesterovLSTM"])
def test_gates_reproduce_the_output(name):
    cell = cell_builders.random_cell(BUILT_IN[name], 2, 3)
    record = record_of(cell, torch.randn(4, 6, 2, dtype=torch.float64))
    x_BI, before = record.inputs[-1], record.state(4)
    v_BG, u_BG, _ = cell.pre_activations(cell.recurrent_weight(), x_BI, before)
    gates = cell.gate_openings(x_BI, before)
    if "z" in gates:
        v_n, u_n = v_BG.chunk(3, -1)[2], u_BG.chunk(3, -1)[2]
        n_BH = torch.tanh(v_n + gates["r"] * u_n)
        expected = (1 - gates["z"]) * n_BH + gates["z"] * record.state(4).core.h
    else:
        g_BH = torch.tanh((v_BG + u_BG).chunk(4, -1)[2])
        expected = gates["o"] * torch.tanh(gates["f"] * record.state(4).core.c + gates["i"] * g_BH)
    assert_close(record.outputs[-1], expected, **EXACT)


def test_units_that_modrelu_switches_off():
    cell = DTRIV(1, 64).double()
    with torch.no_grad():
        cell.modrelu_bias.fill_(-100.0)
        cell.modrelu_bias[:16] = 0.0
    found = dynamics(record_of(cell, torch.randn(4, 6, 1, dtype=torch.float64)))
    assert found.zero_units == 0.75


def test_spectra_of_each_block():
    lstm = LSTM(1, 6, init="published").double()
    found = dynamics(record_of(lstm, torch.randn(2, 6, 1, dtype=torch.float64)))
    assert {block: found.spectral_norm(block) for block in found.spectra} == {"i": 1, "f": 0, "g": 0, "o": 0}
    assert found.from_orthogonal("i") == 0
    assert found.from_orthogonal("f") == 1
    assert found.dc_gain == 1
    orthogonal = dynamics(record_of(DTRIV(1, 6).double(), torch.randn(2, 6, 1, dtype=torch.float64)))
    assert orthogonal.from_orthogonal("U") < 1e-6
    gru = GRU(2, 5).double()
    r, z, n = gru.weight_hh.detach().chunk(3)
    expected = {"r": r, "z": z, "n": n}
    for block, values in recurrent_spectra(gru).items():
        gram = torch.linalg.eigvalsh(expected[block].T @ expected[block]).flip(0)
        assert_close(values**2, gram, **EXACT)
    assert recurrent_spectra(Leaky(1, 3)) == {}


@pytest.mark.parametrize("name", cell_builders.few(DRIVEN))
def test_jacobian_equals_autograd(name, monkeypatch):
    monkeypatch.setattr("cells.analysis.jacobians.ROWS", 3)
    cell = cell_builders.random_cell(BUILT_IN[name], 2, 4)
    x_TI = torch.randn(6, 2, dtype=torch.float64)
    found = jacobians(cell, x_TI, points=6)
    assert found.steps == [1, 2, 3, 4, 5, 6]
    for t in range(1, 6):
        _, state = cell(x_TI[None, :t])

        def last(h_H, state=state, t=t):
            moved = state._replace(core=state.core._replace(h=h_H[None]))
            return cell(x_TI[None, t:], moved)[0][0, -1]

        J_HH = torch.autograd.functional.jacobian(last, state.core.h[0].detach())
        assert_close(found.measured[t - 1], torch.linalg.matrix_norm(J_HH, ord=2), **EXACT)
    assert found.measured[-1] == 1
    assert all(parameter.requires_grad for parameter in cell.parameters())


def test_jacobians_of_theory_equal_autograd_of_the_rewritten_recurrence():
    cell = cell_builders.random_cell(MomentumRNN, 2, 4, momentum=0.7, step_size=0.5)
    x_TI = torch.randn(6, 2, dtype=torch.float64)
    found = jacobians(cell, x_TI, points=6)
    h_TH = cell(x_TI[None])[0][0].detach()
    U, mu = cell.weight_hh.detach(), 0.7
    a_TH = x_TI @ cell.weight_ih.detach().T + cell.bias_ih.detach()

    def rewritten(before_H, h_H, t):
        """Compute the step after t from h_t and h_{t-1}; the cell adds U h + b_hh to v."""
        earlier = U @ before_H + cell.bias_hh.detach()
        v_H = mu * (torch.atanh(h_H) - earlier) + 0.5 * a_TH[t]
        return torch.tanh(v_H + U @ h_H + cell.bias_hh.detach())

    for t in range(2, 6):

        def last(h_H, t=t):
            before_H = h_TH[t - 2]
            for step in range(t, 6):
                before_H, h_H = h_H, rewritten(before_H, h_H, step)
            return h_H

        assert_close(last(h_TH[t - 1]), h_TH[-1], **EXACT)
        J_HH = torch.autograd.functional.jacobian(last, h_TH[t - 1])
        assert_close(found.through_drive[t - 1], torch.linalg.matrix_norm(J_HH, ord=2), **EXACT)

        product_HH = torch.eye(4, dtype=torch.float64)
        for step in range(t, 6):
            one = torch.autograd.functional.jacobian(
                lambda h_H, step=step: rewritten(h_TH[step - 2], h_H, step), h_TH[step - 1]
            )
            product_HH = one @ product_HH
        assert_close(found.published[t - 1], torch.linalg.matrix_norm(product_HH, ord=2), **EXACT)
    assert (found.measured <= found.bound * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_cell_has_statistics_and_jacobians(name):
    cell = cell_builders.random_cell(BUILT_IN[name], 2, 4)
    record = record_of(cell, torch.randn(2, 6, 2, dtype=torch.float64))
    assert all(isinstance(value, float) for value in dynamics(record).numbers().values())
    assert jacobians(cell, torch.randn(5, 2, dtype=torch.float64)).measured.isfinite().all()


def test_measured_jacobian_does_not_depend_on_momentum():
    """Another momentum with inputs that give the same h_1 .. h_T has the same dh_T/dh_t."""
    x_TI = torch.randn(6, 1, dtype=torch.float64)
    plain = cell_builders.random_cell(RNN, 1, 1)
    found = jacobians(plain, x_TI, points=6)
    momentum = MomentumRNN(1, 1, momentum=0.8, step_size=1.0).double()
    momentum.load_state_dict(plain.state_dict())
    with torch.no_grad():
        v_T1 = x_TI @ plain.weight_ih.T + plain.bias_ih
        a_T1 = v_T1 - 0.8 * torch.cat([torch.zeros(1, 1, dtype=torch.float64), v_T1[:-1]])
        fitting_TI = (a_T1 - plain.bias_ih) / plain.weight_ih
    again = jacobians(momentum, fitting_TI, points=6)
    assert_close(again.measured, found.measured, **EXACT)
    assert found.published is None
    assert not torch.allclose(again.published[:-1], found.measured[:-1], rtol=1e-2)
