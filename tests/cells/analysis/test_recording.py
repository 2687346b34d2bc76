"""Gradients through time against autograd by hand, in float64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from helpers import cell_builders
from helpers.cell_builders import BUILT_IN, DRIVEN
from torch import Tensor
from torch.testing import assert_close

from cells import LSTM, Cell
from cells.analysis.recording import gradients_through_time, norms_through_time, recording
from cells.state import leaves

B, T, I, H = 3, 7, 2, 4  # noqa: E741
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def problem(cell, steps=T):
    """Return inputs, and the weights of all outputs in a loss, with the last output counted twice."""
    x_BTI = torch.randn(B, steps, cell.input_size, dtype=torch.float64)
    weights_BTH = torch.randn(B, steps, cell.hidden_size, dtype=torch.float64)
    weights_BTH[:, -1] *= 2
    return x_BTI, weights_BTH


def measured(cell, x_BTI, weights_BTH):
    with recording(cell) as record:
        y_BTH, _ = cell(x_BTI)
        (gradients,) = gradients_through_time((y_BTH * weights_BTH).tanh().sum(), [record])
    return gradients


@pytest.mark.parametrize("name", cell_builders.some(DRIVEN))
def test_equals_the_gradient_of_the_sequence_cut_at_each_step(name):
    """The oracle runs each engine on the steps after t, from a state that requires a gradient."""
    for engine in cell_builders.engines_of(BUILT_IN[name]):
        cell = cell_builders.random_cell(BUILT_IN[name], I, H, engine=engine)
        x_BTI, weights_BTH = problem(cell)
        found = measured(cell, x_BTI, weights_BTH)
        assert cell.engine == engine
        assert not {"loop", "forward"} & vars(cell).keys()

        whole_BTI = x_BTI.clone().requires_grad_()
        y_BTH, _ = cell(whole_BTI)
        (x_gradient,) = torch.autograd.grad((y_BTH * weights_BTH).tanh().sum(), whole_BTI)
        assert_close(found["x"].transpose(0, 1), x_gradient, **EXACT)

        for t in range(1, T + 1):
            _, state = cell(x_BTI[:, :t])
            h_BH = state.core.h.detach().requires_grad_()
            loss = (h_BH * weights_BTH[:, t - 1]).tanh().sum()
            if t < T:
                state = state._replace(core=state.core._replace(h=h_BH))
                y_BTH, _ = cell(x_BTI[:, t:], state)
                loss = loss + (y_BTH * weights_BTH[:, t:]).tanh().sum()
            (h_gradient,) = torch.autograd.grad(loss, h_BH)
            assert_close(found["h"][t - 1], h_gradient, **EXACT)
            assert norms_through_time(found)["h"][t - 1] == pytest.approx(float(h_gradient.norm()), rel=1e-10)


def autograd_of_each(which, cell, x_BTI, weights_BTH):
    """Return the gradient that autograd retains of one tensor per step, chosen from (output, state)."""
    state, loss, kept = cell.initial_state(B), 0.0, []
    for x_BI, weights_BH in zip(x_BTI.unbind(1), weights_BTH.unbind(1), strict=True):
        y_BH, state = cell.step(x_BI, state)
        kept.append(which(y_BH, state))
        kept[-1].retain_grad()
        loss = loss + (y_BH * weights_BH).tanh().sum()
    loss.backward()
    return torch.stack([tensor_BH.grad for tensor_BH in kept])


@pytest.mark.parametrize("name", BUILT_IN)
def test_equals_the_gradient_that_autograd_retains_of_each_output(name):
    cell = cell_builders.random_cell(BUILT_IN[name], I, H)
    x_BTI, weights_BTH = problem(cell)
    expected = autograd_of_each(lambda y_BH, state: y_BH, cell, x_BTI, weights_BTH)
    assert_close(measured(cell, x_BTI, weights_BTH)["h"], expected, **EXACT)


@pytest.mark.parametrize("name", [name for name in DRIVEN if name.endswith("LSTM") and "Min" not in name])
def test_the_cell_state_has_the_gradient_of_its_tensor(name):
    cell = cell_builders.random_cell(BUILT_IN[name], I, H)
    x_BTI, weights_BTH = problem(cell)
    expected = autograd_of_each(lambda y_BH, state: state.core.c, cell, x_BTI, weights_BTH)
    assert_close(measured(cell, x_BTI, weights_BTH)["c"], expected, **EXACT)


def test_equals_the_formula_of_a_tanh_network():
    """dL/dh_t = w_t + U^T diag(1 - h_{t+1}^2) dL/dh_{t+1} for L = sum_t w_t h_t."""
    cell = cell_builders.random_cell(BUILT_IN["RNN"], I, H)
    x_BTI, weights_BTH = problem(cell)
    with recording(cell) as record:
        y_BTH, _ = cell(x_BTI)
        (found,) = gradients_through_time((y_BTH * weights_BTH).sum(), [record])
    gradient = weights_BTH[:, -1]
    for t in reversed(range(T)):
        assert_close(found["h"][t], gradient, **EXACT)
        gradient = weights_BTH[:, t - 1] + gradient * (1 - y_BTH[:, t] ** 2) @ cell.weight_hh


class Parts(NamedTuple):
    h: Tensor
    count: Tensor


class Odd(Cell):
    """h_t = tanh(x_t + u h_{t-1} + m_{t-1}), m_t = h_t / 2; output and state are copies of one another, or the same."""

    def __init__(self, input_size, hidden_size, *, output="h"):
        super().__init__(input_size, hidden_size)
        self.output = output
        self.weight = torch.nn.Parameter(torch.randn(hidden_size, hidden_size))

    def initial_state(self, batch_size):
        zeros = self.weight.new_zeros(batch_size, self.hidden_size)
        return {"parts": Parts(zeros, torch.zeros(batch_size, dtype=torch.int64)), "other": [zeros.clone()]}

    def step(self, x_BI, state):
        h_BH = torch.tanh(x_BI.sum(-1, keepdim=True) + state["parts"].h @ self.weight.t() + state["other"][0])
        copy_BH = h_BH * 1.0
        y_BH, kept_BH = {"h": (h_BH, h_BH), "copy": (copy_BH, h_BH), "original": (h_BH, copy_BH)}[self.output]
        return y_BH, {"parts": Parts(kept_BH, state["parts"].count + 1), "other": [0.5 * h_BH]}


@pytest.mark.parametrize("output", ["h", "copy", "original"])
def test_cell_of_a_third_party(output):
    cell = Odd(I, H, output=output).double()
    x_BTI, weights_BTH = problem(cell)
    found = measured(cell, x_BTI, weights_BTH)
    assert set(found) == {"h", "x", "other.0"}
    z_gradient = torch.zeros(B, H, dtype=torch.float64)  # with respect to the argument of tanh, at the next step
    y_BTH = cell(x_BTI)[0].detach()
    for t in reversed(range(T)):
        direct = weights_BTH[:, t] * (1 - (y_BTH[:, t] * weights_BTH[:, t]).tanh() ** 2)
        through_h, through_m = direct + z_gradient @ cell.weight, 0.5 * z_gradient
        # if they are copies, the graph does not tell that m was computed from h, another part of the state
        assert_close(found["h"][t], through_h + through_m if output == "h" else through_h, **EXACT)
        assert_close(found["other.0"][t], z_gradient, **EXACT)
        z_gradient = (through_h + through_m) * (1 - y_BTH[:, t] ** 2)


def test_several_cells_and_several_calls():
    lower, upper = (cell_builders.random_cell(LSTM, I, H) for _ in range(2))
    x_BTI, weights_BTH = problem(lower)
    upper = cell_builders.random_cell(LSTM, H, H)
    with recording(lower) as first, recording(upper) as second:
        middle_BTH, state = lower(x_BTI[:, :4])
        later_BTH, _ = lower(x_BTI[:, 4:], state)
        middle_BTH = torch.cat([middle_BTH, later_BTH], 1)
        y_BTH, _ = upper(middle_BTH)
        below, above = gradients_through_time((y_BTH * weights_BTH).sum(), [first, second])
    assert below["h"].shape == above["h"].shape == (T, B, H)
    # at the last step the output of lower gets only the gradient of the input of upper
    assert_close(below["h"][-1], above["x"][-1], **EXACT)
    assert below["h"][0].norm() > above["x"][0].norm() * 1e-6


def test_recording_does_not_change_the_cell():
    cell = LSTM(I, H).double()
    x_BTI, _ = problem(cell)
    expected = cell(x_BTI)
    with torch.no_grad(), recording(cell) as record:
        found = cell(x_BTI)
    assert_close(leaves(found), leaves(expected), **EXACT)
    assert_close(leaves(record.state(T - 1)), leaves(expected[1]), **EXACT)
    assert len(record.outputs) == T
    assert cell.engine == "auto"


def test_norms_of_vanished_gradients_are_not_rounded_to_0():
    gradient = torch.tensor([[[3.0, 4.0]], [[3e-250, 4e-250]], [[0.0, 0.0]], [[3e250, 4e250]]], dtype=torch.float64)
    assert norms_through_time({"h": gradient})["h"].tolist() == pytest.approx([5, 5e-250, 0, 5e250], rel=1e-12)
