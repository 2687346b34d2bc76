"""The Nesterov cells: identities with plain cells, and why they have no drive."""

import pytest
import torch
from helpers import cell_builders
from torch.testing import assert_close

import cells

NESTEROV = {core: cells.find_cell(f"Nesterov{core}") for core in ("RNN", "LSTM", "GRU", "DTRIV")}


def make_pair(core, **arguments):
    """Return a Nesterov cell and the plain cell with the same core and weights."""
    nesterov = cell_builders.random_cell(NESTEROV[core], 3, 5, **arguments)
    plain = cells.find_cell(core)(3, 5).double()
    plain.load_state_dict(nesterov.state_dict())
    return nesterov, plain


@pytest.mark.parametrize("core", NESTEROV)
def test_restart_in_every_step_equals_the_plain_cell(core):
    """With F = 1 the coefficient is always 0; with s = 1 the core then gets a_t."""
    nesterov, plain = make_pair(core, restart_period=1, step_size=1.0)
    x_BTI = torch.randn(2, 9, 3, dtype=torch.float64)
    assert_close(nesterov(x_BTI)[0], plain(x_BTI)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", NESTEROV)
def test_minus_sign_is_the_cell_of_the_negated_input(core):
    nesterov, _ = make_pair(core, restart_period=3, sign=1)
    minus, _ = make_pair(core, restart_period=3, sign=-1)
    minus.load_state_dict(nesterov.state_dict())
    with torch.no_grad():
        minus.weight_ih.neg_()
        if minus.bias_ih is not None:
            minus.bias_ih.neg_()
    x_BTI = torch.randn(2, 9, 3, dtype=torch.float64)
    assert_close(minus(x_BTI)[0], nesterov(x_BTI)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", NESTEROV)
def test_momentum_is_part_of_the_gradient_through_time(core):
    """dh_T/dh_0 depends on the schedule at the same trajectory; in a cell with a drive it does not."""
    short, _ = make_pair(core, restart_period=1)
    long, _ = make_pair(core, restart_period=40)
    long.load_state_dict(short.state_dict())
    with torch.no_grad():
        for cell in (short, long):
            for name, parameter in cell.named_parameters():
                if name.startswith(("weight_ih", "bias")):
                    parameter.zero_()
    jacobians = []
    for cell in (short, long):  # without input and biases both stay at h = 0
        h_BH = torch.full((1, 5), 1e-9, dtype=torch.float64, requires_grad=True)
        start = cell.initial_state(1)
        with torch.no_grad():
            if hasattr(cell, "modrelu_bias"):
                cell.modrelu_bias.zero_()
        y_BTH, _ = cell(torch.zeros(1, 4, 3, dtype=torch.float64), start._replace(core=start.core._replace(h=h_BH)))
        jacobians.append(torch.autograd.grad(y_BTH[:, -1].sum(), h_BH)[0])
    assert (jacobians[0] - jacobians[1]).abs().max() > 1e-4


def test_state_is_the_last_y_in_two_parts_and_the_count():
    cell = cell_builders.random_cell(cells.NesterovLSTM, 3, 5, step_size=0.3, restart_period=4, sign=-1)
    x_BTI = torch.randn(2, 6, 3, dtype=torch.float64)
    _, before = cell(x_BTI[:, :5])
    _, state = cell(x_BTI)
    a_BG = x_BTI[:, 5] @ cell.weight_ih.mT + cell.bias_ih
    assert_close(state.y_input, -0.3 * a_BG, rtol=0, atol=1e-14)
    assert_close(state.y_hidden, before.core.h @ cell.weight_hh.mT + cell.bias_hh, rtol=0, atol=1e-14)
    assert state.k.tolist() == [2, 2]
