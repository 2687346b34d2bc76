"""Identities that follow from the algebra of drives and cores."""

import pytest
import torch
from helpers import cell_builders
from torch.testing import assert_close

import cells
from cells.state import leaves

CORES = ["RNN", "LSTM", "GRU", "DTRIV"]
DRIVES = ["Momentum", "SR", "RMSProp", "Adam"]
WITH_BIAS = CORES[:3]


def build(name, I=3, **arguments):  # noqa: E741
    return cell_builders.random_cell(cells.find_cell(name), I, 5, **arguments)


def with_weights_of(cell, other, scale=1.0):
    """Give ``other`` the weights of ``cell``, with W and b_ih scaled, and return it."""
    weights = {k: v.clone() for k, v in cell.state_dict().items() if not k.startswith("drive.")}
    for name in {"weight_ih", "bias_ih"} & weights.keys():
        weights[name] *= scale
    other.load_state_dict(weights)
    return other


def make_input(T=12, I=3):  # noqa: E741
    return torch.randn(2, T, I, dtype=torch.float64)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("drive", "arguments"), [("Momentum", {"momentum": 0.8}), ("SR", {"restart_period": 5})])
def test_linear_drive_equals_the_plain_cell_on_the_filtered_input(core, drive, arguments):
    """x~_t = c_t x~_{t-1} + s x_t, and the bias as the weight of the filtered 1."""
    cell = build(drive + core, step_size=0.3, **arguments)
    x_BTI = make_input()
    x_BTI1 = torch.cat([x_BTI, torch.ones(2, 12, 1, dtype=torch.float64)], -1)
    filtered = []
    for t in range(12):
        k = t % arguments.get("restart_period", 12) + 1
        c = arguments.get("momentum", (k - 1) / (k + 2))
        filtered.append(0.3 * x_BTI1[:, t] + (c * filtered[-1] if t else 0))
    plain = build(core, I=4, **({} if core == "DTRIV" else {"bias": True}))
    weights = cell.state_dict()
    bias_G = weights["bias_ih"] if "bias_ih" in weights else torch.zeros(len(weights["weight_ih"])).double()
    weights["weight_ih"] = torch.cat([weights["weight_ih"], bias_G[:, None]], 1)
    if "bias_ih" in weights:
        weights["bias_ih"] = torch.zeros_like(bias_G)
    plain.load_state_dict(weights)
    assert_close(plain(torch.stack(filtered, 1))[0], cell(x_BTI)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("drive", "arguments"), [("Momentum", {"momentum": 0.0}), ("SR", {"restart_period": 1})])
def test_without_memory_a_linear_drive_scales_w_and_b_ih(core, drive, arguments):
    cell = build(drive + core, step_size=0.3, **arguments)
    plain = with_weights_of(cell, build(core), scale=0.3)
    x_BTI = make_input()
    assert_close(cell(x_BTI)[0], plain(x_BTI)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("delta_in_root", [True, False])
@pytest.mark.parametrize("core", CORES)
def test_adam_without_momentum_is_rmsprop(core, delta_in_root):
    adam = build("Adam" + core, momentum=0.0, beta=0.8, step_size=0.3, delta_in_root=delta_in_root)
    rmsprop = with_weights_of(adam, build("RMSProp" + core, beta=0.8, step_size=0.3, delta_in_root=delta_in_root))
    x_BTI = make_input()
    assert_close(adam(x_BTI)[0], rmsprop(x_BTI)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", CORES)
def test_rmsprop_with_huge_delta_is_the_plain_cell(core):
    """If delta is much larger than the average, v_t = s a_t / sqrt(delta)."""
    cell = build("RMSProp" + core, delta=1e16, step_size=1e8)
    plain = with_weights_of(cell, build(core))
    x_BTI = make_input()
    assert_close(cell(x_BTI)[0], plain(x_BTI)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("core", CORES)
def test_rmsprop_is_invariant_to_the_scale_of_the_input(core):
    small = build("RMSProp" + core, delta=1e-18)
    large = with_weights_of(small, build("RMSProp" + core, delta=1e-18), scale=1e3)
    x_BTI = make_input()
    assert_close(small(x_BTI)[0], large(x_BTI)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("drive", DRIVES)
def test_gradient_through_time_does_not_contain_the_drive(core, drive):
    """dh_T/dh_0 equals that of the core at the same pre-activations, for any drive."""
    cell = build(drive + core)
    x_BTI = make_input()
    start = cell_builders.random_state(cell, 2)
    seen = []
    cell.core_step = lambda v, u, state: (seen.append(v.detach()), type(cell).core_step(cell, v, u, state))[1]
    y_BTH, _ = cell.loop(x_BTI, start)
    (found,) = torch.autograd.grad(y_BTH[:, -1].sum(), start.core.h)
    h_BH = start.core.h.detach().requires_grad_()
    state = start.core._replace(h=h_BH)
    for v_BG in seen:  # v is a constant: the graph contains only the core
        u_BG = cell.linear(state.h, cell.recurrent_weight(), cell.bias_hh)
        y_BH, state = type(cell).core_step(cell, v_BG, u_BG, state)
    (expected,) = torch.autograd.grad(y_BH.sum(), h_BH)
    assert found.abs().max() > 0
    assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["MomentumLSTM", "MomentumGRU"])
def test_constant_input_is_amplified_by_the_dc_gain(name):
    """v -> s / (1 - mu) a: after the transient the cell equals the plain one with W and b_ih scaled by the gain."""
    cell = build(name, momentum=0.75, step_size=0.5)
    plain = with_weights_of(cell, build(name.removeprefix("Momentum")), scale=0.5 / (1 - 0.75))
    x_BTI = torch.randn(2, 1, 3, dtype=torch.float64)
    _, settled = cell(x_BTI.expand(-1, 200, -1))
    start = plain.initial_state(2)._replace(core=settled.core)
    assert_close(cell(x_BTI, settled)[0], plain(x_BTI, start)[0], rtol=0, atol=1e-12)


def test_forget_bias_at_rest():
    """After long silence the forget gate's pre-activation is b_hh + b_ih s / (1 - mu) + U h."""
    cell = build("MomentumLSTM", momentum=0.75, step_size=0.5)
    seen = []
    cell.core_step = lambda v, u, state: (seen.append(v), type(cell).core_step(cell, v, u, state))[1]
    cell.loop(torch.zeros(1, 200, 3, dtype=torch.float64), cell.initial_state(1))
    assert_close(seen[-1][0, 5:10], 2 * cell.bias_ih[5:10], rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("drive", DRIVES)
def test_every_engine_has_the_same_state(core, drive):
    engines = cell_builders.engines_of(cells.find_cell(drive + core))
    made = [build(drive + core, engine=engine) for engine in engines]
    for cell in made[1:]:
        cell.load_state_dict(made[0].state_dict())
    x_BTI = make_input()
    whole, _ = made[0](x_BTI)
    for first in made:
        for second in made:
            _, state = first(x_BTI[:, :5])
            y_BTH, last = second(x_BTI[:, 5:], state)
            assert_close(y_BTH, whole[:, 5:], rtol=0, atol=1e-12)
            assert [leaf.shape for leaf in leaves(last)] == [leaf.shape for leaf in leaves(state)]
