"""A core and a drive defined outside of the package, without a change of the package."""

import inspect
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers.paths import ROOT
from torch import nn

from cells import LSTM, Core, Drive, DrivenCell, check_cell, flops, gain_report
from cells.analysis.dynamics import dynamics
from cells.analysis.jacobians import jacobians
from cells.analysis.recording import recording
from cells.cores.lstm import LSTMCore
from cells.driven import IdentityDriven, MomentumDriven


class MinimalState(NamedTuple):
    h: torch.Tensor


class MinimalCore(Core):
    """h_t = z h_{t-1} + (1 - z) tanh(v_n), z = sig(v_z + u)."""

    gates = 2

    def __init__(self, input_size, hidden_size, **core):
        super().__init__(input_size, hidden_size, **core)
        self.weight_hh = nn.Parameter(torch.empty(2 * hidden_size, hidden_size))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def recurrent_weight(self):
        return self.weight_hh

    def initial_core_state(self, zeros_BH):
        return MinimalState(zeros_BH)

    def core_step(self, v_BG, u_BG, state):
        z, n = (v_BG + u_BG).chunk(2, -1)
        h_BH = torch.sigmoid(z) * state.h + (1 - torch.sigmoid(z)) * torch.tanh(n)
        return h_BH, MinimalState(h_BH)


class Average(Drive):
    """v_t = (1 - rate) v_{t-1} + rate a_t."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def initial_state(self, zeros_BC):
        return zeros_BC

    def step(self, a_BC, state):
        v_BC = (1 - self.rate) * state + self.rate * a_BC
        return v_BC, v_BC


class AverageDriven(DrivenCell):
    """A core on v_t = (1 - rate) v_{t-1} + rate a_t.

    Args:
        rate: Rate of the average.
    """

    def __init__(self, input_size, hidden_size, *, rate: float = 0.25, **core):
        super().__init__(input_size, hidden_size, drive=Average(rate), **core)


class MinimalRNN(IdentityDriven, MinimalCore):
    """h_t = z h_{t-1} + (1 - z) tanh(a_n + u_n), z = sig(a_z + u_z)."""


class MomentumMinimalRNN(MomentumDriven, MinimalCore):
    """MinimalRNN with v_t in place of a_t: v_t = mu v_{t-1} + s a_t."""


class AverageLSTM(AverageDriven, LSTMCore):
    """LSTM with v_t in place of a_t: v_t = (1 - rate) v_{t-1} + rate a_t."""


class AverageMinimalRNN(AverageDriven, MinimalCore):
    """MinimalRNN with v_t in place of a_t: v_t = (1 - rate) v_{t-1} + rate a_t."""


OWN = (MinimalRNN, MomentumMinimalRNN, AverageLSTM, AverageMinimalRNN)


@pytest.mark.parametrize("build", OWN)
def test_own_cell_fulfills_the_contract(build):
    check_cell(build)


@pytest.mark.parametrize("build", OWN)
def test_every_analysis_has_an_answer(build):
    cell = build(2, 4).double()
    x_BTI = torch.randn(3, 6, 2, dtype=torch.float64)
    with torch.no_grad(), recording(cell) as record:
        cell(x_BTI)
    assert dynamics(record).spectra.keys() == ({"i", "f", "g", "o"} if build is AverageLSTM else {"0", "1"})
    assert jacobians(cell, x_BTI[0]).measured.isfinite().all()
    assert flops(cell, 6, 3).forward == 2 * 3 * 6 * (2 + 4) * 4 * cell.gates
    assert gain_report(cell).dc_gain == pytest.approx(1.5 if build is MomentumMinimalRNN else 1.0)


def test_default_forward_of_a_drive_equals_its_steps():
    drive = Average(0.5)
    v_BTC, last = drive(torch.tensor([[[1.0], [0.0], [4.0]]]), torch.zeros(1, 1))
    assert v_BTC[0, :, 0].tolist() == [0.5, 0.25, 2.125]
    assert last.item() == 2.125


def test_own_drive_with_rate_1_is_the_plain_core():
    own, plain = AverageLSTM(2, 4, rate=1.0), LSTM(2, 4, engine="reference")
    plain.load_state_dict(own.state_dict())
    x_BTI = torch.randn(3, 6, 2)
    torch.testing.assert_close(own(x_BTI)[0], plain(x_BTI)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("part", "most"), [(MinimalCore, 22), (Average, 12), (AverageDriven, 8)])
def test_own_part_needs_few_lines(part, most):
    """The lines of the definitions above, without blank lines."""
    lines = [line for line in inspect.getsource(part).splitlines() if line.strip()]
    assert len(lines) <= most


def test_own_cell_is_listed_with_its_arguments():
    program = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT / 'tests')!r}]; "
        "import test_own_core_and_drive; from app.commands.main import main; "
        "sys.exit(main(['cells']) or print('=' * 9) or main(['cells', 'AverageLSTM']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed, explained = done.stdout.split("=" * 9)
    assert "AverageLSTM" in listed
    assert "MomentumMinimalRNN" in listed
    for word in ("--model.cell.rate", "0.25", "Rate of the average", "multiplies a constant input"):
        assert word in explained


def test_init_args_hold_only_what_was_given():
    assert AverageLSTM(2, 4).init_args == {}
    assert partial(AverageLSTM, rate=0.5)(2, 4).init_args == {"rate": 0.5}
