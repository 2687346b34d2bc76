"""The Legendre memory unit: its discretization, its equations, its two engines, its published size."""

import re

import numpy as np
import pytest
import scipy.signal
import torch
from helpers import cell_builders
from torch import nn
from torch.testing import assert_close

from cells import LMU
from cells.engines.choice import explain_engine
from cells.lmu import LMUState, legendre_memory


def continuous(order, theta):
    """Return A and B of the paper, entry by entry."""
    A, B = np.zeros((order, order)), np.zeros((order, 1))
    for i in range(order):
        B[i] = (2 * i + 1) * (-1) ** i / theta
        for j in range(order):
            A[i, j] = (2 * i + 1) / theta * (-1 if i < j else (-1) ** (i - j + 1))
    return A, B


@pytest.mark.parametrize(("order", "theta"), [(1, 3.0), (2, 1.0), (32, 100.0), (256, 784.0)])
def test_discretization_equals_scipy(order, theta):
    A, B = continuous(order, theta)
    expected_A, expected_B, *_ = scipy.signal.cont2discrete((A, B, np.eye(order), np.zeros((order, 1))), 1.0, "zoh")
    found_A, found_B = legendre_memory(order, theta)
    assert np.abs(found_A.numpy() - expected_A).max() < 1e-11
    assert np.abs(found_B.numpy() - expected_B[:, 0]).max() < 1e-12


def loop(cell):
    A, B = cell.A.numpy(), cell.B.numpy()

    def run(x, state, w):
        h, m = state
        outputs = []
        for t in range(x.shape[-2]):
            x_t = x[..., t, :]
            u = (x_t * w["e_x"][..., None, :]).sum(-1, keepdims=True)
            if cell.feedback:
                u = u + (h * w["e_h"][..., None, :]).sum(-1, keepdims=True)
                u = u + (m * w["e_m"][..., None, :]).sum(-1, keepdims=True)
            m = m @ A.T + u * B
            h = np.tanh(sum(v @ np.swapaxes(w[W], -1, -2) for v, W in ((x_t, "W_x"), (h, "W_h"), (m, "W_m"))))
            outputs.append(h)
        return np.stack(outputs, -2), h, m

    return run


@pytest.mark.parametrize("T", [1, 2, 3, 17])
@pytest.mark.parametrize(
    "arguments", [{}, {"init": "published"}, {"feedback": False}, {"feedback": False, "engine": "reference"}], ids=str
)
def test_equals_the_equations(arguments, T):
    cell = LMU(3, 5, order=6, theta=9.0, **arguments).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True)
    state = LMUState(*(torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (5, 6)))
    for what, difference in cell_builders.compare_loop(cell, x, state, loop(cell)).items():
        assert difference < 1e-10, f"{what}: {difference:.1e}"


def test_engine_auto():
    assert explain_engine(LMU(1, 4))[0] == "reference"
    assert explain_engine(LMU(1, 4, feedback=False))[0] == "library"
    with pytest.raises(ValueError, match=r"engine must be 'auto'.* got 'library'"):
        LMU(1, 4, engine="library")
    with pytest.raises(ValueError, match=r"engine must be 'auto'.* got 'fused'"):
        LMU(1, 4, engine="fused")(torch.zeros(1, 2, 1))


def test_engines_agree_over_a_whole_image_in_float32():
    fast = LMU(1, 20, order=64, theta=784.0, feedback=False)
    slow = LMU(1, 20, order=64, theta=784.0, feedback=False, engine="reference")
    slow.load_state_dict(fast.state_dict())
    x_BTI = torch.rand(2, 784, 1)
    found, last = fast(x_BTI)
    expected, expected_last = slow(x_BTI)
    assert_close(found, expected, rtol=0, atol=1e-5)
    assert_close(last.m, expected_last.m, rtol=0, atol=1e-5)


def test_memory_contains_the_window():
    """Legendre polynomials reconstruct a slow input of the last theta steps from m."""
    cell = LMU(1, 1, order=12, theta=100.0, feedback=False).double()
    nn.init.ones_(cell.e_x)
    t = torch.arange(300, dtype=torch.float64)
    u_T = torch.sin(t / 20)
    m_N = cell.remember(u_T[None], torch.zeros(1, 12, dtype=torch.float64))[0, -1]
    for delay in (10, 50, 90):
        weights = np.polynomial.legendre.legval(2 * delay / 100 - 1, np.eye(12))
        assert m_N.numpy() @ weights == pytest.approx(float(u_T[-1 - delay]), abs=0.06)


def test_published_classifier_has_the_published_size_and_initial_values():
    cell = LMU(1, 212, order=256, theta=784, init="published")
    model = nn.ModuleList([cell, nn.Linear(212, 10)])
    assert sum(parameter.numel() for parameter in model.parameters()) == 102_027
    assert torch.equal(cell.e_x, torch.ones(1))
    assert not any(parameter.any() for parameter in (cell.e_h, cell.e_m, cell.W_x, cell.W_h))
    assert cell.W_m.std().item() == pytest.approx((2 / (212 + 256)) ** 0.5, rel=0.02)


def test_general_initialization():
    cell = LMU(12, 300, order=200)
    for encoder, fan_in in ((cell.e_x, 12), (cell.e_h, 300)):
        assert 0.7 * (3 / fan_in) ** 0.5 < encoder.abs().max() <= (3 / fan_in) ** 0.5
    assert not cell.e_m.any()
    assert cell.W_h.std().item() == pytest.approx((2 / 600) ** 0.5, rel=0.03)


def test_autocast_is_ignored():
    cell = LMU(1, 8, feedback=False)
    x_BTI = torch.randn(2, 30, 1)
    exact, _ = cell(x_BTI)
    with torch.autocast("cpu", torch.bfloat16):
        low, _ = cell(x_BTI)
    assert torch.equal(low, exact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 0}, "order must be a positive integer, got 0"),
        ({"theta": 0}, "theta must be in (0, inf), got 0"),
        ({"init": "zero"}, "init must be one of 'general', 'published', got 'zero'"),
    ],
)
def test_invalid_argument_raises(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LMU(1, 4, **arguments)
