"""The closed-form continuous-time cell against its equations in numpy, its initialization, its engine."""

import re

import numpy as np
import pytest
import torch
from helpers import cell_builders

from cells import CfC
from cells.engines.choice import explain_engine


def loop_of(cell):
    def run(x, state, w):
        (h,) = state
        outputs = []
        for t in range(x.shape[-2]):
            u = x[..., t, :]
            lead = np.broadcast_shapes(u.shape[:-1], h.shape[:-1], (*w["heads.bias"].shape[:-1], 1))
            k = np.concatenate([np.broadcast_to(v, (*lead, v.shape[-1])) for v in (u, h)], -1)
            for layer in range(len(cell.backbone)):
                k = 1.7159 * np.tanh(0.666 * _linear(k, w[f"backbone.{layer}.weight"], w[f"backbone.{layer}.bias"]))
            f, g, a, b = np.split(_linear(k, w["heads.weight"], w["heads.bias"]), 4, -1)
            s = 1 / (1 + np.exp(-(a * cell.dt + b)))
            h = (np.tanh(f) if cell.mode == "no_gate" else np.tanh(f) * (1 - s)) + s * np.tanh(g)
            outputs.append(h)
        return np.stack(outputs, -2), h

    return run


def _linear(x, weight, bias):
    return x @ np.swapaxes(weight, -1, -2) + bias[..., None, :]


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"backbone_units": 7},
        {"backbone_units": 4, "backbone_layers": 2, "mode": "no_gate", "dt": 0.3},
        {"backbone_layers": 0, "dt": 2.0},
    ],
)
def test_equals_the_equations(arguments, engine):
    cell = CfC(3, 5, engine=engine, **arguments).double()
    for T in (1, 9):
        x = torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True)
        state = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
        for what, difference in cell_builders.compare_loop(cell, x, state, loop_of(cell)).items():
            assert difference < 1e-10, f"{what}: {difference:.1e}"


def test_initialization_is_xaviers_for_each_block():
    cell = CfC(10, 30, backbone_units=50)
    for weight, bound in ((cell.backbone[0].weight, (6 / 90) ** 0.5), (cell.heads.weight, (6 / 80) ** 0.5)):
        assert 0.98 * bound < weight.abs().max() <= bound


def test_engine():
    assert explain_engine(CfC(1, 4)) == ("fused", "")
    with torch.autocast("cpu", torch.bfloat16):
        assert explain_engine(CfC(1, 4)) == ("fused", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dt": 0.0}, "dt must be in (0, inf), got 0.0"),
        ({"mode": "pure"}, "mode must be one of 'default', 'no_gate', got 'pure'"),
        ({"backbone_layers": -1}, "backbone_layers must be 0 or a positive integer, got -1"),
        ({"backbone_units": 0}, "backbone_units must be a positive integer, got 0"),
        ({"engine": "scan"}, "engine must be 'auto' for CfC"),
    ],
)
def test_invalid_argument_raises_with_accepted_values(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CfC(3, 4, **arguments)
