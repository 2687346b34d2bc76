"""Every cell against an independent oracle and against torch's own layers; initialization; error messages."""

import re
from math import pi

import pytest
import torch
from helpers import cell_builders
from helpers.cell_builders import BIAS_OR_NOT, COMBINED, DRIVEN, WITH_BIAS, slow
from torch.nn.utils import parametrize
from torch.testing import assert_close

import cells
from cells import registered_cells
from cells.cores.input_gated import InputGatedCore
from cells.state import leaves

VARIANTS = [
    ("MomentumLSTM", {"learn": "scalar"}),
    ("MomentumGRU", {"learn": "unit"}),
    ("MomentumDTRIV", {"learn": "unit", "momentum": 0.9, "step_size": 0.1}),
    ("SRLSTM", {"restart_period": 2, "step_size": 1.0}),
    ("SRGRU", {"restart_period": 3, "learn": "scalar"}),
    ("SRRNN", {"restart_period": 5, "learn": "unit"}),
    ("RMSPropLSTM", {"delta": 1e-2, "delta_in_root": False, "learn": "scalar"}),
    ("RMSPropRNN", {"beta": 0.0}),
    ("AdamLSTM", {"delta": 1e-2, "delta_in_root": False}),
    ("AdamGRU", {"beta": 0.99, "learn": "unit"}),
    ("AdamRNN", {"momentum": 0.6, "beta": 0.1, "delta": 1e-3}),
    ("NesterovLSTM", {"sign": -1, "restart_period": 3}),
    ("NesterovGRU", {"sign": -1, "restart_period": 2, "step_size": 1.5}),
    ("DTRIV", {"skew_init": "henaff"}),
    ("JANET", {"lag": 0.0}),
    ("HouseholderRNN", {"reflections": 1}),
    ("MinGRU", {"candidate": "identity", "bias": False}),
    ("MinLSTM", {"candidate": "identity", "bias": False}),
    ("LEM", {"dt": 0.3}),
    ("SLSTM", {"forget_gate": "exponential"}),
]
CASES = [
    *((name, {}) for name in DRIVEN),
    *((name, {"bias": False}) for name in BIAS_OR_NOT if name not in COMBINED),
    *(slow((name, {"bias": False})) for name in BIAS_OR_NOT if name in COMBINED),
    *VARIANTS,
]
# Rounding errors grow with a NesterovDTRIV by a factor of up to 1 + sqrt(2) per step: after 9 steps the error of 1e-16
# is up to 3e-13, and 1e-10 leaves room for sums over steps, rows and units.
LONGEST = {"NesterovDTRIV": 9}
SIZES = [(1, 1, 1), (3, 2, 5), (1, 63, 5), (3, 63, 1)]  # B, T, H
ONE_WIDTH = [size for size in SIZES if size[2] == 5]  # of a cell whose drive and core are also tested in others


def name_case(case):
    name, arguments = case
    return "-".join([name, *(f"{key}={value}" for key, value in arguments.items())])


@pytest.mark.filterwarnings("ignore:momentum should be at most sqrt")  # one case is meant to be unstable
@pytest.mark.parametrize("case", CASES, ids=name_case)
def test_equals_the_oracle(case):
    name, arguments = case
    build = DRIVEN[name]
    for engine in cell_builders.engines_of(build, **arguments):
        for B, T, H in ONE_WIDTH if name in cell_builders.COMBINED else SIZES:
            T = min(T, LONGEST.get(name, T))
            torch.manual_seed(0)  # the same cell for every engine
            cell = cell_builders.random_cell(build, 3, H, engine=engine, **arguments)
            x_BTI = torch.randn(B, T, 3, dtype=torch.float64, requires_grad=True)
            start = cell_builders.random_state(cell, B)
            for state in (start, cell.initial_state(B)):
                for leaf in leaves(state):
                    leaf.requires_grad_(leaf.is_floating_point())
                for what, difference in cell_builders.compare(cell, x_BTI, state).items():
                    assert difference < 1e-10, f"{what} of {cell} at B {B}, T {T} by {engine}: {difference:.1e}"


@pytest.mark.parametrize("name", cell_builders.some(DRIVEN))
def test_equals_the_oracle_at_130_units(name):
    cell = cell_builders.random_cell(DRIVEN[name], 2, 130)
    x_BTI = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    for what, difference in cell_builders.compare(
        cell, x_BTI, cell_builders.random_state(cell, 2), per_tensor=None
    ).items():
        assert difference < 1e-10, f"{what}: {difference:.1e}"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("name", "layer"), [("LSTM", torch.nn.LSTM), ("GRU", torch.nn.GRU), ("RNN", torch.nn.RNN)])
def test_equals_torch_on_copied_weights(name, layer, bias):
    original = layer(4, 6, bias=bias, batch_first=True).double()
    cell = DRIVEN[name](4, 6, bias=bias).double()
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in original.state_dict().items()})
    x_BTI = torch.randn(3, 9, 4, dtype=torch.float64)
    state = cell_builders.random_state(cell, 3)
    given = tuple(leaf[None] for leaf in state.core)
    y_BTH, last = cell(x_BTI, state)
    expected, expected_last = original(x_BTI, given if name == "LSTM" else given[0])
    assert_close(y_BTH, expected, rtol=0, atol=1e-12)
    assert_close(
        torch.stack([*last.core]),
        torch.cat([*expected_last] if name == "LSTM" else [expected_last]),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", [name for name in BIAS_OR_NOT if "LearnedM" not in name and "GatedM" not in name])
def test_torch_initialization_is_uniform_within_one_over_root_h(name):
    cell = DRIVEN[name](30, 64)
    for parameter in cell.parameters():
        assert parameter.abs().max() <= 1 / 8
        assert parameter.abs().max() > 0.9 / 8
        assert abs(parameter.mean()) < 0.03


@pytest.mark.parametrize("name", ["LSTM", "AdamLSTM", "NesterovLSTM", "MomentumGRU", "SRRNN"])
def test_published_initialization(name):
    cell = DRIVEN[name](3, 8, init="published")
    G = cell.gates * 8
    assert_close(cell.weight_ih.T @ cell.weight_ih, torch.eye(3), rtol=0, atol=1e-6)
    assert_close(cell.weight_hh.detach(), torch.eye(G, 8), rtol=0, atol=0)
    forget = torch.zeros(G)
    if name.endswith("LSTM"):
        forget[8:16] = 1
    for bias in (cell.bias_ih, cell.bias_hh):
        assert_close(bias.detach(), forget, rtol=0, atol=0)


def test_forget_bias_sets_both_biases_of_the_forget_block():
    for init in ("torch", "published"):
        cell = cells.MomentumLSTM(3, 8, init=init, forget_bias=-4.0)
        for bias in (cell.bias_ih, cell.bias_hh):
            assert (bias[8:16] == -4).all()
            assert (bias[:8] != -4).all()


@pytest.mark.parametrize("name", ["DTRIV", "AdamDTRIV", "ExpRNN", "CayleyRNN", "NesterovDTRIV"])
def test_orthogonal_initialization(name):
    cell = DRIVEN[name](200, 301)
    assert cell.modrelu_bias.abs().max() <= 0.01
    assert cell.modrelu_bias.abs().max() > 0.009
    assert abs(cell.weight_ih.std() - (2 / 200) ** 0.5) < 0.002


@pytest.mark.parametrize(("init", "highest"), [("cayley", pi / 2), ("henaff", pi)])
def test_skew_initialization_draws_the_angles_of_the_published_code(init, highest):
    """Cayley: the angle under the Cayley map is uniform in (0, pi/2); Henaff: that under exp is, in (-pi, pi)."""
    cell = cells.ExpRNN(1, 401, skew_init=init)
    A_HH = torch.zeros(401, 401)
    rows, columns = torch.tril_indices(401, 401, -1)
    A_HH[rows, columns] = cell.skew.detach()
    s = -A_HH.diagonal(-1)[::2]
    angles = 2 * torch.atan(-s) if init == "cayley" else s
    assert (A_HH != 0).sum() == 200
    assert angles.max() <= highest
    assert angles.max() > 0.95 * highest
    assert abs(angles.mean() - (highest / 2 if init == "cayley" else 0)) < 0.15 * highest


@pytest.mark.parametrize("name", [name for name in DRIVEN if name.startswith(("SR", "Nesterov"))])
def test_reset_row_restarts_its_count(name):
    cell = cell_builders.random_cell(DRIVEN[name], 3, 5, restart_period=4)
    x_BTI = torch.randn(2, 6, 3, dtype=torch.float64)
    _, state = cell(x_BTI)
    reset = cells.reset_rows(state, torch.tensor([True, False]), cell.initial_state(2))
    y_BTH, last = cell(x_BTI, reset)
    assert_close(y_BTH[:1], cell(x_BTI[:1])[0], rtol=0, atol=1e-12)
    counts = last.k if name.startswith("Nesterov") else last.drive.k
    assert counts.tolist() == [2, 4]  # after 6 and 12 steps


def test_carry_count_false_restarts_the_count_in_each_call():
    x_BTI = torch.randn(2, 5, 3, dtype=torch.float64)
    carried = cell_builders.random_cell(cells.SRLSTM, 3, 5, restart_period=4)
    restarting = cells.SRLSTM(3, 5, restart_period=4, carry_count=False).double()
    restarting.load_state_dict(carried.state_dict())
    _, state = carried(x_BTI)
    restarted = state._replace(drive=state.drive._replace(k=torch.zeros(2, dtype=torch.int64)))
    assert_close(restarting(x_BTI, state)[0], carried(x_BTI, restarted)[0], rtol=0, atol=1e-12)
    assert not torch.allclose(restarting(x_BTI, state)[0], carried(x_BTI, state)[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", DRIVEN)
def test_recurrent_weight(name):
    cell = DRIVEN[name](2, 4)
    weight_GH = cell.recurrent_weight()
    assert weight_GH.shape == (0 if issubclass(DRIVEN[name], InputGatedCore) else 4 * cell.gates, 4)
    if name in WITH_BIAS:
        assert weight_GH is cell.weight_hh


@pytest.mark.parametrize("name", DRIVEN)
def test_leaves_of_an_initial_state_share_no_memory(name):
    initial = leaves(DRIVEN[name](2, 4).initial_state(3))
    assert len({leaf.data_ptr() for leaf in initial}) == len(initial)


@pytest.mark.parametrize("name", cell_builders.few(DRIVEN))
def test_states_keep_the_dtype_of_the_parameters_under_autocast(name):
    for engine in cell_builders.engines_of(DRIVEN[name]):
        cell = DRIVEN[name](2, 4, engine=engine)
        with torch.autocast("cpu", torch.bfloat16):
            y_BTH, state = cell(torch.randn(3, 5, 2))
        kinds = {leaf.dtype for leaf in leaves((y_BTH, state)) if leaf.is_floating_point()}
        assert kinds == {torch.float32}, f"{engine} gives {kinds}"


@pytest.mark.parametrize("name", cell_builders.few(cell_builders.BUILT_IN))
def test_cells_in_bfloat16_compute_what_they_compute_in_float32(name):
    """With parameters in bfloat16, as Lightning's precision bf16-true makes them; orthogonal maps run in float32."""
    build = cell_builders.BUILT_IN[name]
    cell, low = build(4, 6), build(4, 6)
    low.load_state_dict(cell.state_dict())
    low.bfloat16()
    x_BTI = torch.randn(3, 7, 4)
    expected, _ = cell(x_BTI)
    y_BTH, state = low(x_BTI.bfloat16())
    y_BTH.float().square().sum().backward()
    low.after_optimizer_step()
    assert y_BTH.dtype == torch.bfloat16
    for tensor in (y_BTH, *leaves(state), *(parameter.grad for parameter in low.parameters())):
        assert tensor.isfinite().all()
    assert (y_BTH.float() - expected).abs().max() < 0.05 * expected.abs().max()


class Half(torch.nn.Module):
    """A parametrization, as weight drop is."""

    def forward(self, weight):
        return weight * torch.tensor([1.0, 0.0], dtype=weight.dtype).repeat(weight.shape[1] // 2)


@pytest.mark.parametrize("name", cell_builders.few(WITH_BIAS))
def test_every_engine_uses_a_replaced_recurrent_weight(name):
    """Weight drop replaces it, by functional_call or by a parametrization."""
    for engine in cell_builders.engines_of(DRIVEN[name]):
        cell = cell_builders.random_cell(DRIVEN[name], 3, 4, engine=engine)
        x_BTI = torch.randn(2, 5, 3, dtype=torch.float64)
        whole_GH = cell.weight_hh.detach().clone().requires_grad_()
        functional, _ = torch.func.functional_call(cell, {"weight_hh": Half()(whole_GH)}, (x_BTI,))
        functional.square().sum().backward()
        parametrize.register_parametrization(cell, "weight_hh", Half(), unsafe=True)
        parametrized, _ = cell(x_BTI)
        parametrized.square().sum().backward()
        parametrize.remove_parametrizations(cell, "weight_hh", leave_parametrized=True)
        expected, _ = cell(x_BTI)
        for found in (functional, parametrized):
            assert_close(found, expected, rtol=0, atol=1e-12)
        assert whole_GH.grad[:, 0].any()
        assert not whole_GH.grad[:, 1].any()


def test_parametrized_cell_is_not_registered():
    before = registered_cells()
    cell = cells.LSTM(3, 4)
    parametrize.register_parametrization(cell, "weight_hh", Half(), unsafe=True)
    assert registered_cells() == before


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (cells.LSTM, {"hidden_size": 0}, "hidden_size must be a positive integer, got 0"),
        (cells.MomentumLSTM, {"hidden_size": -3}, "hidden_size must be a positive integer, got -3"),
        (cells.MomentumRNN, {"momentum": 1.0}, "momentum must be in [0, 1), got 1.0"),
        (cells.MomentumGRU, {"step_size": 0}, "step_size must be in (0, inf), got 0"),
        (cells.MomentumGRU, {"learn": "all"}, "learn must be one of 'none', 'scalar', 'unit', got 'all'"),
        (cells.MomentumGRU, {"learn": "unit", "momentum": 0.0}, "learned momentum must be in (0, 1), got 0.0"),
        (cells.AdamLSTM, {"learn": "unit", "beta": 0.01}, "learned momentum must be in (0, 0.1), got 0.6"),
        (cells.SRLSTM, {"restart_period": 0}, "restart_period must be a positive integer, got 0"),
        (cells.SRLSTM, {"restart_period": 10**19}, f"restart_period must be less than 2^63, got {10**19}"),
        (cells.NesterovRNN, {"restart_period": 2**63}, f"restart_period must be less than 2^63, got {2**63}"),
        (cells.RMSPropLSTM, {"beta": 1}, "beta must be in [0, 1), got 1"),
        (cells.AdamRNN, {"delta": 0.0}, "delta must be in [1e-18, inf), got 0.0"),
        (cells.NesterovRNN, {"sign": 0}, "sign must be one of 1, -1, got 0"),
        (cells.DTRIV, {"rebase_every": 0}, "rebase_every must be a positive integer, got 0"),
        (cells.DTRIV, {"project_every": 2.5}, "project_every must be a positive integer, got 2.5"),
        (cells.ExpRNN, {"skew_init": "eye"}, "skew_init must be one of 'cayley', 'henaff', got 'eye'"),
        (cells.RNN, {"init": "zero"}, "init must be one of 'torch', 'published', got 'zero'"),
        (
            cells.LSTM,
            {"forget_bias": 1.0, "bias": False},
            "forget_bias must be None without biases",
        ),
        (
            cells.DTRIV,
            {"engine": "library"},
            "engine must be 'auto' for DTRIV",
        ),
        (
            cells.NesterovLSTM,
            {"engine": "library"},
            "engine must be 'auto' for NesterovLSTM",
        ),
    ],
)
def test_invalid_argument_raises_with_accepted_values(build, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**{"input_size": 3, "hidden_size": 5, **arguments})
