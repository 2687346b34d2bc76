"""gain_report against runs of the drives, and its sentences; flops against torch's counter."""

import pytest
import torch
from helpers.cell_builders import BUILT_IN, DRIVEN
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import cells
from cells import flops, gain_report
from cells.cores.input_gated import InputGatedCore

OPTIONS = [
    ("MomentumLSTM", {"momentum": 0.9, "step_size": 0.2}),
    ("MomentumGRU", {"learn": "unit"}),
    ("MomentumRNN", {"learn": "scalar", "bias": False}),
    ("SRLSTM", {"restart_period": 3}),
    ("AdamLSTM", {"delta": 1e-2, "delta_in_root": False}),
    ("RMSPropLSTM", {"delta": 1e-2, "learn": "unit"}),
    ("NesterovLSTM", {"sign": -1}),
]
CASES = [*((name, {}) for name in DRIVEN), *OPTIONS]


def name_case(case):
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


@pytest.mark.parametrize("case", CASES, ids=name_case)
@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_gains_equal_the_response_to_a_long_constant_input(case, size):
    """W = 1, biases 0, x = size: the mean v after 240 steps, over the last period if there is one."""
    name, arguments = case
    cell = DRIVEN[name](1, 4, **arguments).double()
    with torch.no_grad():
        cell.weight_ih.fill_(1.0)
        for bias in (cell.bias_ih, cell.bias_hh):
            if bias is not None:
                bias.zero_()
        if isinstance(cell, cells.cores.modrelu.ModReLUCore):
            cell.modrelu_bias.fill_(-1e9)  # h stays 0
        elif not isinstance(cell, InputGatedCore):  # whose gates do not see h
            cell.weight_hh.zero_()
    seen = []
    cell.core_step = lambda v, u, state: (seen.append(v), type(cell).core_step(cell, v, u, state))[1]
    period = getattr(getattr(cell, "drive", None), "restart_period", 1)
    steps = 240 // period * period
    cell.loop(torch.full((1, steps, 1), size, dtype=torch.float64), cell.initial_state(1))
    found = torch.stack(seen[-period:]).mean().item() / size
    report = gain_report(cell)
    assert_close(report.dc_gain if size == 1 else report.silent_gain, found, rtol=1e-6, atol=0)


def test_report_of_momentum():
    cell = cells.MomentumLSTM(3, 5, momentum=0.75, step_size=0.5, forget_bias=1.0)
    report = gain_report(cell)
    assert_close([report.dc_gain, report.silent_gain, report.forget_bias, report.growth], [2.0, 2.0, 3.0, 0.75])
    assert str(report).splitlines() == [
        "MomentumLSTM multiplies a constant input (W x + b_ih) by 2.",
        "After the input falls to 0 the drive decays within about 3.5 steps: stable.",
        "Control to compare with: the same step_size with momentum 0.",
        "The forget gate rests on a bias of 3 (from 3 to 3), where it is open by 0.953.",
    ]


def test_report_of_an_unstable_drive():
    with pytest.warns(UserWarning, match="at most sqrt"):
        cell = cells.AdamLSTM(3, 5, momentum=0.6, beta=0.1, step_size=0.6, delta=1e-16)
    report = gain_report(cell)
    assert_close(report.growth, 0.6 / 0.1**0.5)
    assert_close(report.dc_gain, 1.5)
    assert_close(report.silent_gain, 1.5e8)
    assert "UNSTABLE: after the input falls to 0 the drive grows by a factor of 1.9 per step" in str(report)
    assert "momentum is above sqrt(beta)" in str(report)
    assert "multiplies one near 0, and its gradient, by 1.5e+08" in str(report)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_cell_has_a_report(name):
    report = gain_report(BUILT_IN[name](3, 6))
    assert name in report.sentences[0]
    gated = issubclass(BUILT_IN[name], (cells.cores.gated.GatedCore, InputGatedCore))
    assert (report.forget_bias is not None) == gated
    assert (report.growth is None) == (name.startswith("Nesterov") or name not in DRIVEN)


def test_forget_bias_of_a_nonlinear_drive():
    """RMSProp drives any bias to s: the forget gate rests on 0.6 + 1 instead of 1 + 1."""
    report = gain_report(cells.RMSPropLSTM(3, 5, init="published", step_size=0.6))
    assert_close(report.forget_bias, 1.6, rtol=1e-3, atol=0)


def test_cell_without_core_has_operations_but_no_gains():
    class Other(cells.Cell):
        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.linear = torch.nn.Linear(input_size, hidden_size)

        def initial_state(self, batch_size):
            return ()

        def step(self, x_BI, state):
            return self.linear(x_BI), state

    assert gain_report(Other(2, 5)).dc_gain is None
    assert str(gain_report(Other(2, 5))).startswith("Other has no drive, so its input gain is undefined")
    product = 2 * 4 * 3 * 2 * 5
    assert flops(Other(2, 5), T=3, batch=4) == (product, product)
    assert flops(Other(2, 5), T=3, batch=4, input_grad=True) == (product, 2 * product)


@pytest.mark.parametrize("case", CASES, ids=name_case)
@pytest.mark.parametrize("input_grad", [True, False])
def test_flops_equal_those_that_torch_counts(case, input_grad):
    name, arguments = case
    cell = DRIVEN[name](3, 6, engine="reference", **arguments)
    for batch, T in ((2, 7), (1, 1)):
        x_BTI = torch.randn(batch, T, 3, requires_grad=input_grad)
        with FlopCounterMode(display=False) as forward:
            y_BTH, _ = cell(x_BTI)
        with FlopCounterMode(display=False) as backward:
            y_BTH.sum().backward()
        expected = forward.get_total_flops(), backward.get_total_flops()
        assert flops(cell, T, batch, input_grad=input_grad) == expected


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - DRIVEN.keys()))
def test_flops_of_cells_without_a_formula(name):
    cell = BUILT_IN[name](3, 6)
    with FlopCounterMode(display=False) as counted:
        y_BTH, _ = cell.loop(torch.randn(2, 7, 3), cell.initial_state(2))
        y_BTH.sum().backward()
    assert sum(flops(cell, 7, 2)) == counted.get_total_flops() > 0


def test_invalid_counts_raise():
    with pytest.raises(ValueError, match="T must be a positive integer, got 0"):
        flops(cells.LSTM(2, 3), 0, 4)
