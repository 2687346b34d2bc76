"""Drives and the scan: values, gradients, extreme inputs, learned coefficients."""

import re
import warnings

import pytest
import torch
from torch.testing import assert_close

import cells
from cells.drives import Adam, Drive, Momentum, RMSProp, ScheduledRestart
from cells.drives.coefficients import Coefficient
from cells.engines.scan import linear_scan
from cells.state import leaves

DRIVES = {
    "momentum": Momentum(0.6, 0.6),
    "momentum per unit": Momentum(0.6, 0.6, learn="unit", channels=3),
    "restart": ScheduledRestart(0.6, 40),
    "rmsprop": RMSProp(0.6, 0.9, delta=1e-4),
    "rmsprop as published": RMSProp(0.6, 0.9, delta=1e-16),
    "rmsprop outside": RMSProp(0.6, 0.9, delta=1e-16, delta_in_root=False),
    "rmsprop smallest delta": RMSProp(0.6, 0.01, delta=1e-18, delta_in_root=False),
    "adam": Adam(0.6, 0.6, 0.9, delta=1e-4),
    "adam as published": Adam(0.6, 1.0, 0.999, delta=1e-16),
    "adam outside": Adam(0.6, 0.6, 0.9, delta=1e-16, delta_in_root=False),
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    DRIVES["adam unstable"] = Adam(0.6, 0.6, 0.1, delta=1e-16)


def make_input(kind, T, dtype=torch.float32):
    x_BTC = torch.randn(2, T, 3, dtype=dtype)
    silent = (torch.arange(T) % 100 < 70)[:, None]
    return {
        "zero": torch.zeros_like(x_BTC),
        "constant": torch.full_like(x_BTC, 0.5),
        "1e4": 1e4 * x_BTC,
        "1e-25": 1e-25 * x_BTC,  # its square underflows in float32
        "bursts": torch.where(silent, 0.0, 1e4 * x_BTC),
    }[kind]


@pytest.mark.parametrize("T", [1, 2, 3, 4, 10, 63])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, "T", 1), (2, "T", 1), (2, "T", 3)])
def test_scan_equals_a_loop_in_values_and_gradients(T, shape):
    c = torch.rand([T if n == "T" else n for n in shape], dtype=torch.float64, requires_grad=True)
    u_BTC, v_BC = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, T, 3), (2, 3)))

    def loop(c, u_BTC, v_BC):
        outputs = []
        for c_BC, u_BC in zip(c.expand(-1, T, -1).unbind(1), u_BTC.unbind(1), strict=True):
            v_BC = c_BC * v_BC + u_BC
            outputs.append(v_BC)
        return torch.stack(outputs, 1)

    scanned, looped = linear_scan(c, u_BTC, v_BC), loop(c, u_BTC, v_BC)
    assert_close(scanned, looped, rtol=0, atol=1e-12)
    weight = torch.randn_like(looped)
    found, expected = (torch.autograd.grad((v * weight).sum(), (c, u_BTC, v_BC)) for v in (scanned, looped))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, 5, 3), (2, 5, 3)])
def test_scan_of_complex_numbers_has_derivatives(shape):
    """With one coefficient, one per channel, one per step and channel, and one for each number."""
    kind = {"dtype": torch.complex128, "requires_grad": True}
    c, u_BTC, v_BC = torch.randn(*shape, **kind), torch.randn(2, 5, 3, **kind), torch.randn(2, 3, **kind)
    assert torch.autograd.gradcheck(linear_scan, (c, u_BTC, v_BC))
    assert torch.autograd.gradgradcheck(linear_scan, (c, u_BTC, v_BC))


@pytest.mark.parametrize("real", [0, 1, 2])
def test_scan_of_real_and_complex_numbers_has_derivatives(real):
    shapes = ((1, 1, 3), (2, 5, 3), (2, 3))
    tensors = [
        torch.randn(shape, dtype=torch.float64 if n == real else torch.complex128, requires_grad=True)
        for n, shape in enumerate(shapes)
    ]
    assert torch.autograd.gradcheck(linear_scan, tensors)


def test_scan_of_complex_numbers_equals_a_loop():
    c, u_BTC, v = (torch.randn(shape, dtype=torch.complex128) for shape in ((1, 1, 3), (2, 63, 3), (2, 3)))
    c = c / (c.abs() + 0.01)
    scanned = linear_scan(c, u_BTC, v)
    for t, u in enumerate(u_BTC.unbind(1)):
        v = c[:, 0] * v + u
        assert_close(scanned[:, t], v, rtol=0, atol=1e-12)


def test_scan_has_second_derivatives():
    c = torch.rand(1, 5, 2, dtype=torch.float64, requires_grad=True)
    u_BTC = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    v_BC = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(linear_scan, (c, u_BTC, v_BC))


@pytest.mark.parametrize("name", DRIVES)
@pytest.mark.parametrize("T", [1, 7, 130])
def test_sequence_equals_steps(name, T):
    drive = DRIVES[name].double()
    a_BTC = make_input("bursts", T, torch.float64)
    start = drive.initial_state(torch.zeros(2, 3, dtype=torch.float64))
    v_BTC, last = drive(a_BTC, start)
    state = start
    for t in range(T):
        v_BC, state = drive.step(a_BTC[:, t], state)
        assert_close(v_BTC[:, t], v_BC, rtol=1e-10, atol=1e-10)
    for a, b in zip(leaves(last), leaves(state), strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DRIVES)
@pytest.mark.parametrize("kind", ["zero", "constant", "1e4", "1e-25", "bursts"])
def test_finite_forward_and_backward_over_2000_steps(name, kind):
    drive = DRIVES[name].float()
    a_BTC = make_input(kind, 2000).requires_grad_()
    v_BTC, last = drive(a_BTC, drive.initial_state(torch.zeros(2, 3)))
    (grad_BTC,) = torch.autograd.grad(v_BTC.sum(), a_BTC)
    for tensor in (v_BTC, grad_BTC, *leaves(last)):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", ["AdamLSTM", "RMSPropGRU", "AdamRNN", "RMSPropDTRIV", "MomentumLSTM", "SRGRU"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["zero", "constant", "1e4"])
def test_cells_are_finite_under_autocast(name, dtype, kind):
    arguments = {} if name[:2] in ("Mo", "SR") else {"delta": 1e-16}
    cell = cells.find_cell(name)(3, 5, **arguments)
    x_BTI = make_input(kind, 300)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y_BTH, state = cell(x_BTI)
    y_BTH.float().square().mean().backward()
    for tensor in (y_BTH, *leaves(state), *(p.grad for p in cell.parameters())):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", ["AdamLSTM", "RMSPropLSTM"])
def test_cells_are_finite_over_2000_steps_in_float16(name):
    cell = cells.find_cell(name)(3, 5, delta=1e-16)
    with torch.autocast("cpu", torch.float16):
        y_BTH, state = cell(make_input("bursts", 2000))
    y_BTH.float().square().mean().backward()
    for tensor in (y_BTH, *leaves(state), *(p.grad for p in cell.parameters())):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", ["adam as published", "rmsprop outside", "momentum"])
def test_drives_keep_full_precision_under_autocast(name):
    drive = DRIVES[name].float()
    x_BTI = torch.randn(2, 50, 3)
    cell = cells.AdamLSTM(3, 4)
    cell.drive = drive
    apply = cell.drive_input if drive.commutes_with_weights else cell.drive_gates
    with torch.autocast("cpu", torch.bfloat16):
        d_BTD, *_ = apply(drive, x_BTI, cell.initial_state(2).drive)
    expected, *_ = apply(drive, x_BTI, cell.initial_state(2).drive)
    assert d_BTD.dtype == torch.float32
    assert_close(d_BTD, expected, rtol=0, atol=0)


def test_derivative_at_zero_input_is_step_size_over_sqrt_delta():
    """At black pixels: step_size times 1e8 for the published delta, times 100 for the default."""
    for drive, expected in (
        (RMSProp(0.6, 0.9, delta=1e-4), 60.0),
        (RMSProp(0.6, 0.9, delta=1e-16), 6e7),
        (RMSProp(0.6, 0.9, delta=1e-4, delta_in_root=False), 6000.0),
        (Adam(0.6, 0.6, 0.9, delta=1e-4), 60.0),
    ):
        a_BTC = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
        v_BTC, _ = drive(a_BTC, drive.initial_state(torch.zeros(1, 1, dtype=torch.float64)))
        (grad,) = torch.autograd.grad(v_BTC.sum(), a_BTC)
        assert_close(grad.item(), expected, rtol=1e-6, atol=0)


def test_adam_with_momentum_above_sqrt_beta_warns_and_grows():
    message = (
        "momentum should be at most sqrt(beta) = sqrt(0.1) = 0.3162, got 0.6. After the input falls to 0 the drive "
        "grows by a factor of 1.897 per step"
    )
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        drive = Adam(0.6, 0.6, 0.1, delta=1e-16)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stable = Adam(0.3, 0.6, 0.1, delta=1e-16)
    a_BTC = torch.zeros(1, 11, 1, dtype=torch.float64)
    a_BTC[:, 0] = 1.0
    for adam, growth in ((drive, 0.6 / 0.1**0.5), (stable, 0.3 / 0.1**0.5)):
        v_BTC, _ = adam(a_BTC, adam.initial_state(torch.zeros(1, 1, dtype=torch.float64)))
        assert_close((v_BTC[0, 10, 0] / v_BTC[0, 0, 0]).item(), growth**10, rtol=1e-4, atol=0)


@pytest.mark.parametrize("value", [1e-6, 0.3, 1.0, 7.0, 300.0])
def test_learned_coefficient_starts_at_its_value(value):
    assert_close(
        Coefficient("s", value, learn="scalar").double()(), torch.tensor([value]), rtol=1e-5, atol=0, check_dtype=False
    )


def test_learned_coefficients_keep_their_bounds():
    for raw in (-80.0, 80.0):
        momentum = Coefficient("momentum", 0.6, high=0.9, learn="unit", channels=4)
        step_size = Coefficient("step_size", 0.6, learn="unit", channels=4)
        for coefficient in (momentum, step_size):
            torch.nn.init.constant_(coefficient.raw, raw)
        assert (momentum() >= 0).all()
        assert (momentum() <= 0.9).all()
        assert (step_size() >= 0).all()


@pytest.mark.parametrize("learn", ["scalar", "unit"])
@pytest.mark.parametrize(("name", "count"), [("MomentumLSTM", 2), ("SRGRU", 1), ("RMSPropRNN", 1), ("AdamDTRIV", 2)])
def test_learned_coefficients(name, count, learn):
    """Before training they leave the outputs unchanged, and they get gradients; ``unit`` has one per gate channel."""
    build = cells.find_cell(name)
    fixed, learned = build(3, 5).double(), build(3, 5, learn=learn).double()
    left = learned.load_state_dict(fixed.state_dict(), strict=False)
    coefficients = {key: p for key, p in learned.named_parameters() if key in left.missing_keys}
    channels = 5 * fixed.gates if learn == "unit" else 1
    assert [p.shape for p in coefficients.values()] == [(channels,)] * count
    x_BTI = torch.randn(2, 9, 3, dtype=torch.float64)
    assert_close(learned(x_BTI)[0], fixed(x_BTI)[0], rtol=0, atol=1e-6)  # softplus and sigmoid are inverted in float32
    learned(x_BTI)[0].square().sum().backward()
    assert all(p.grad.abs().min() > 0 for p in coefficients.values())
    assert learned.drive.commutes_with_weights == (learn == "scalar" and fixed.drive.commutes_with_weights)


def test_gradient_descent_finds_the_momentum():
    """From other initial values it finds the momentum and the step size that generated the data."""
    a_BTC = torch.randn(8, 40, 1)
    teacher, student = Momentum(0.8, 0.3), Momentum(0.5, 1.0, learn="scalar")
    target, _ = teacher(a_BTC, torch.zeros(8, 1))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (student(a_BTC, torch.zeros(8, 1))[0] - target).square().mean().backward()
        optimizer.step()
    assert_close(student.momentum().item(), 0.8, rtol=0, atol=1e-2)
    assert_close(student.step_size().item(), 0.3, rtol=0, atol=1e-2)


class Counted(Drive):
    """v_t = decay v_{t-1} + a_t by the defaults of Drive, which counts its steps."""

    def __init__(self, decay):
        super().__init__()
        self.decay, self.steps = decay, 0

    def initial_state(self, zeros_BC):
        return zeros_BC

    def step(self, a_BC, state):
        self.steps += 1
        v_BC = self.decay * state + a_BC
        return v_BC, v_BC


@pytest.mark.parametrize(("decay", "most_steps"), [(0.0, 50), (0.6, 100), (0.95, 400), (0.999, 2000)])
def test_default_settled_runs_until_the_drive_has_settled(decay, most_steps):
    drive, a_C = Counted(decay), torch.tensor([2.0, -1.0], dtype=torch.float64)
    expected = a_C / (1 - decay)
    assert_close(drive.settled(a_C), expected, rtol=1e-5 if decay < 0.99 else 0.3, atol=0)  # at 0.999 it is cut off
    assert drive.steps <= most_steps


def test_default_settled_averages_a_drive_that_oscillates():
    drive = Counted(-1.0)  # v = a, 0, a, 0, ..
    assert_close(drive.settled(torch.tensor([2.0])), torch.tensor([1.0]), rtol=0, atol=1e-6)


def test_default_settled_has_the_derivative_at_a_silent_input():
    a_C = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Counted(0.97).settled(a_C).sum(), a_C)
    assert_close(slope.item(), 1 / (1 - 0.97), rtol=1e-6, atol=0)


@pytest.mark.parametrize("restart_period", [1, 2, 7, 40])
def test_settled_restart_is_the_mean_over_a_period(restart_period):
    drive = ScheduledRestart(0.3, restart_period).double()
    a_C = torch.tensor([2.0, -1.0], dtype=torch.float64)
    expected = Drive.settled(drive, a_C)  # an average over 1000 steps, which is not a whole number of periods
    v_1TC, _ = drive(a_C.expand(1, restart_period, -1), drive.initial_state(torch.zeros(1, 2, dtype=torch.float64)))
    assert_close(drive.settled(a_C), v_1TC[0].mean(0), rtol=1e-12, atol=0)
    assert_close(drive.settled(a_C), expected, rtol=0.05, atol=0)


def test_settled_restart_does_not_run_a_long_period():
    assert_close(
        ScheduledRestart(0.5, 2**62).settled(torch.ones(1)), torch.tensor([0.5 * 2**62 / 8]), rtol=1e-6, atol=0
    )


def test_restart_schedule():
    """k = 1, 2, 3, 1, ..: coefficients 0, 1/4, 2/5, 0, ..; each row carries its own count over a cut."""
    drive = ScheduledRestart(1.0, 3).double()
    start = drive.initial_state(torch.ones(2, 1, dtype=torch.float64))
    start = start._replace(k=torch.tensor([0, 2]))
    v_BTC, last = drive(torch.zeros(2, 2, 1, dtype=torch.float64), start)
    assert_close(v_BTC[:, :, 0], torch.tensor([[0.0, 0.0], [0.4, 0.0]], dtype=torch.float64), rtol=0, atol=1e-15)
    assert last.k.tolist() == [2, 1]
