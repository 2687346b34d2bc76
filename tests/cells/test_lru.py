"""The linear recurrent unit against its equations in numpy, its initialization, its error messages."""

import re
from math import pi

import numpy as np
import pytest
import torch
from helpers import cell_builders
from torch.testing import assert_close

from cells import LRU
from cells.lru import LRUState


def loop(x, state, w):
    """Real and imaginary parts apart, because the complex step of the derivatives uses the imaginary unit."""
    real, imaginary = state
    N = w["nu"].shape[-1]
    radius = np.exp(-np.exp(w["nu"]))[..., None, :]
    phase = np.exp(w["theta"])[..., None, :]
    a, b = radius * np.cos(phase), radius * np.sin(phase)
    gamma = np.exp(w["log_gamma"])[..., None, :]
    of_input, of_state, skip = (np.swapaxes(w[f"weight_{name}"], -1, -2) for name in ("in", "out", "skip"))
    outputs = []
    for t in range(x.shape[-2]):
        u = x[..., t, :]
        real, imaginary = (
            a * real - b * imaginary + gamma * (u @ of_input[..., :N]),
            b * real + a * imaginary + gamma * (u @ of_input[..., N:]),
        )
        outputs.append(real @ of_state[..., :N, :] + imaginary @ of_state[..., N:, :] + u @ skip)
    return np.stack(outputs, -2), real, imaginary


@pytest.mark.parametrize("engine", ["reference", "scan", "fused"])
@pytest.mark.parametrize(("H", "N", "T"), [(5, None, 9), (5, 3, 6), (1, 2, 1)])
def test_equals_the_equations(H, N, T, engine):
    cell = LRU(3, H, state_size=N, engine=engine).double()
    N = cell.state_size
    x = torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True)
    state = LRUState(*(torch.randn(2, N, dtype=torch.float64, requires_grad=True) for _ in range(2)))
    for what, difference in cell_builders.compare_loop(cell, x, state, loop).items():
        assert difference < 1e-10, f"{what}: {difference:.1e}"


def test_equals_a_recurrence_of_complex_numbers():
    cell = LRU(2, 3, state_size=4).double()
    x_BTI = torch.randn(1, 7, 2, dtype=torch.float64)
    lam = torch.exp(torch.complex(-cell.nu.exp(), cell.theta.exp()))
    B_NI = torch.complex(*cell.weight_in.chunk(2))
    C_HN = torch.complex(cell.weight_out[:, :4], -cell.weight_out[:, 4:])
    s_N = torch.zeros(4, dtype=torch.complex128)
    for t, y_H in enumerate(cell(x_BTI)[0][0]):
        u_I = x_BTI[0, t]
        s_N = lam * s_N + cell.log_gamma.exp() * (B_NI @ u_I.to(B_NI.dtype))
        assert_close(y_H, (C_HN @ s_N).real + cell.weight_skip @ u_I, rtol=0, atol=1e-12)


def test_initialization_is_uniform_on_the_ring():
    cell = LRU(4, 3, state_size=20_000, r_min=0.4, r_max=0.9, max_phase=pi / 2)
    radius_N, phase_N = torch.exp(-cell.nu.exp()), cell.theta.exp()
    assert_close(torch.stack([radius_N.min(), radius_N.max()]), torch.tensor([0.4, 0.9]), rtol=0, atol=1e-3)
    # uniform on the area of the ring: the square of the radius is uniform
    assert abs(radius_N.square().mean() - (0.4**2 + 0.9**2) / 2) < 0.01
    assert 0 < phase_N.min() < phase_N.max() < pi / 2 + 1e-6
    assert abs(phase_N.mean() - pi / 4) < 0.02
    assert_close(cell.log_gamma.exp().square(), 1 - radius_N.square(), rtol=0, atol=1e-4)
    assert abs(cell.weight_in.var() - 1 / 8) < 0.01
    assert abs(cell.weight_out.var() * 20_000 - 1) < 0.05


def test_gamma_keeps_the_size_of_the_state():
    """With white noise of variance 1 as input, the mean of |x|^2 settles at |B|^2, about 1, for every radius."""
    cell = LRU(1, 1, state_size=200, r_min=0.5, r_max=0.95)
    with torch.no_grad():
        _, state = cell(torch.randn(64, 300, 1))
    assert abs((state.real**2 + state.imaginary**2).mean().item() - 1) < 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r_min": 1.0}, "r_min must be in [0, 1), got 1.0"),
        ({"r_min": 0.5, "r_max": 0.4}, "r_max must be in (0.5, 1], got 0.4"),
        ({"max_phase": 7.0}, "max_phase must be in (0, 6.28"),
        ({"state_size": 0}, "state_size must be a positive integer, got 0"),
        ({"engine": "library"}, "engine must be 'auto' for LRU"),
    ],
)
def test_invalid_argument_raises_with_accepted_values(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LRU(3, 4, **arguments)
