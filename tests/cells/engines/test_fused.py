"""The engine ``fused`` on steps that it has not been written for, and when something is missing."""

import os
import subprocess
import sys
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from helpers.paths import ROOT
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_map

import cells
from cells import Cell
from cells.denormals import flushes_denormals
from cells.engines import fused
from cells.engines.choice import choose_engine, explain_engine
from cells.engines.fused import NotFusable, layout, threads, torch_ops, workspace
from cells.engines.fused.graphs import operation
from cells.state import leaves


class Leaky(Cell):
    """h_t = leak h_{t-1} + (1 - leak) tanh(W x_t + U h_{t-1} + b)."""

    def __init__(self, input_size, hidden_size, *, leak=0.5):
        super().__init__(input_size, hidden_size)
        self.leak = leak
        self.from_input = nn.Linear(input_size, hidden_size)
        self.from_hidden = nn.Linear(hidden_size, hidden_size, bias=False)

    def initial_state(self, batch_size):
        return self.from_hidden.weight.new_zeros(batch_size, self.hidden_size)

    def step(self, x_BI, state):
        update_BH = torch.tanh(self.from_input(x_BI) + self.from_hidden(state))
        h_BH = self.leak * state + (1 - self.leak) * update_BH
        return h_BH, h_BH


class MinimalGated(Cell):
    """f = sig(F [x, h]); h_t = (1 - f) h + f tanh(C [x, f h]) scale: two products in a row."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.gate = nn.Linear(input_size + hidden_size, hidden_size)
        self.candidate = nn.Linear(input_size + hidden_size, hidden_size)
        self.scale = nn.Parameter(torch.rand(hidden_size))

    def initial_state(self, batch_size):
        return self.scale.new_zeros(batch_size, self.hidden_size)

    def step(self, x_BI, state):
        f = torch.sigmoid(self.gate(torch.cat([x_BI, state], 1)))
        candidate = torch.tanh(self.candidate(torch.cat([x_BI, f * state], 1)))
        h_BH = (1 - f) * state + f * candidate * self.scale
        return nn.functional.silu(h_BH), h_BH


class LongExpressive(Cell):
    """LEM: z from y_{t-1}, then y from z; both in one step."""

    def __init__(self, input_size, hidden_size, *, dt=0.7):
        super().__init__(input_size, hidden_size)
        self.dt = dt
        self.from_input = nn.Linear(input_size, 4 * hidden_size)
        self.from_y = nn.Linear(hidden_size, 3 * hidden_size)
        self.from_z = nn.Linear(hidden_size, hidden_size)

    def initial_state(self, batch_size):
        zeros = self.from_z.weight.new_zeros(batch_size, self.hidden_size)
        return {"y": zeros, "z": zeros.clone()}

    def step(self, x_BI, state):
        x_1, x_2, x_z, x_y = self.from_input(x_BI).chunk(4, 1)
        y_1, y_2, y_z = self.from_y(state["y"]).chunk(3, 1)
        open_z = self.dt * torch.sigmoid(x_1 + y_1)
        z = (1 - open_z) * state["z"] + open_z * torch.tanh(x_z + y_z)
        open_y = self.dt * torch.sigmoid(x_2 + y_2)
        y = (1 - open_y) * state["y"] + open_y * torch.tanh(x_y + self.from_z(z))
        return y, {"y": y, "z": z}


class Everything(Cell):
    """Separate gates, x outside of products, many functions, a count in the state, a weight that is a number."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        for name in ("a", "b", "c"):
            setattr(self, name, nn.Linear(input_size, hidden_size))
            setattr(self, f"{name}_h", nn.Linear(hidden_size, hidden_size))
        self.w = nn.Parameter(torch.randn(hidden_size) / 3)
        self.dt = nn.Parameter(torch.tensor(0.3))

    def initial_state(self, batch_size):
        zeros = self.w.new_zeros(batch_size, self.hidden_size)
        return zeros, zeros.clone(), zeros.new_zeros(batch_size, dtype=torch.int64)

    def step(self, x_BI, state):
        h, m, k = state
        f = torch.sigmoid(self.a(x_BI) + self.a_h(h))
        g = nn.functional.softplus(self.b(x_BI) + self.b_h(h))
        e = nn.functional.elu(self.c(x_BI) + self.c_h(h) + self.w * m)
        m = torch.clamp(f * m + (1 - f) * e, -0.8, 0.9) / (1 + (k % 3).to(m.dtype)[:, None])
        h = torch.exp(-g) * h + torch.where(m > 0, m, 0.1 * m) * torch.relu(x_BI.mean(1, keepdim=True) * self.w + 1)
        h = h / (1 + h.abs()) + (h**2 + 1e-3).sqrt() * self.dt + nn.functional.gelu(m) + x_BI[:, :1] * self.w
        return h, (h, m, k + 1)


STEPS = (Leaky, MinimalGated, LongExpressive, Everything)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(layout, "CHUNK", 256)
    monkeypatch.setattr(layout, "LEAST_ROWS", 1)
    monkeypatch.setitem(torch_ops.CHUNK, "cpu", 256)


def make(build, H=5, dtype=torch.float64, engine="fused", **arguments):
    torch.manual_seed(0)
    cell = build(3, H, **arguments).to(dtype)
    cell.engine = engine
    return cell


def random_state(cell, B):
    return tree_map(lambda leaf: torch.rand_like(leaf) if leaf.is_floating_point() else leaf, cell.initial_state(B))


def run(cell, x_BTI, state, forward=None):
    """Return outputs, last leaves, and the gradients of a fixed function of them in all that they depend on."""
    x_BTI = x_BTI.detach().requires_grad_()
    state = tree_map(lambda leaf: leaf.detach().requires_grad_(leaf.is_floating_point()), state)
    y_BTH, last = (forward or cell)(x_BTI, state)
    results = [leaf for leaf in (y_BTH, *leaves(last)) if leaf.is_floating_point()]
    sources = [x_BTI, *(leaf for leaf in leaves(state) if leaf.requires_grad)]
    sources += [parameter for parameter in cell.parameters() if parameter.requires_grad]
    loss = sum((leaf * torch.linspace(-1, 1, leaf.numel()).view_as(leaf).to(leaf)).sum() for leaf in results)
    return [*results, *torch.autograd.grad(loss, sources, materialize_grads=True)]


def difference(found, expected):
    pairs = zip(found, expected, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("build", STEPS)
def test_step_equals_the_loop(build, dtype):
    rows = 130 if dtype == torch.float64 else 5  # in float32 the loop itself adds up 130 rows less precisely
    for B, T, H in ((1, 1, 1), (3, 2, 5), (3, 63, 5), (rows, 3, 5), (3, 7, 130)):
        cell = make(build, H, dtype)
        x_BTI, state = torch.randn(B, T, 3, dtype=dtype), random_state(cell, B)
        found, expected = run(cell, x_BTI, state), run(cell, x_BTI, state, cell.loop)
        assert difference(found, expected) < TOLERANCE[dtype], f"B {B}, T {T}, H {H}"


@pytest.mark.parametrize("build", [*STEPS, cells.AdamLSTM, cells.NesterovGRU, cells.DTRIV])
def test_torch_operations_equal_the_loop(build, monkeypatch):
    monkeypatch.setattr(fused, "compiler_fault", lambda: "llvmlite is absent")
    cell = make(build)
    x_BTI, state = torch.randn(3, 9, 3, dtype=torch.float64), random_state(cell, 3)
    assert difference(run(cell, x_BTI, state), run(cell, x_BTI, state, cell.loop)) < 1e-12


@pytest.mark.parametrize(
    ("name", "forward", "back"), [("LSTM", 6, 5), ("GRU", 6, 6), ("MomentumLSTM", 6, 5), ("RNN", 1, 2)]
)
def test_loops_of_torch_operations_are_short(name, forward, back, monkeypatch):
    """Each operation is a launch on a GPU. An LSTM: sigmoid of all gates, f c, tanh, + i g, tanh, o tanh(c)."""
    monkeypatch.setattr(fused, "compiler_fault", lambda: "llvmlite is absent")
    monkeypatch.setattr(fused, "_programs", {})
    cells.find_cell(name)(3, 4, engine="fused")(torch.randn(2, 3, 3))
    stage = next(program for program in fused._programs.values() if not isinstance(program, NotFusable)).stages[0]
    assert [operations(stage.forward), operations(stage.back)] == [forward, back]


def operations(run):
    free = {"getitem", "split", "getattr", "size"}
    calls = [node for node in run.__self__.graph.nodes if node.op == "call_function"]
    return sum(operation(node) not in free for node in calls)


@pytest.mark.parametrize("build", STEPS)
def test_step_keeps_the_contract(build):
    cells.check_cell(build)


def test_threads_share_the_rows():
    cell = make(cells.AdamLSTM)
    x_BTI, state = torch.randn(131, 4, 3, dtype=torch.float64), random_state(cell, 131)
    expected = run(cell, x_BTI, state)
    torch.set_num_threads(3)
    try:
        assert difference(run(cell, x_BTI, state), expected) < 1e-12
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("frozen", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_frozen_parameter(frozen):
    cell = make(cells.AdamLSTM)
    getattr(cell, frozen).requires_grad_(False)
    x_BTI, state = torch.randn(3, 9, 3, dtype=torch.float64), random_state(cell, 3)
    assert difference(run(cell, x_BTI, state), run(cell, x_BTI, state, cell.loop)) < 1e-12


@pytest.mark.parametrize("name", ["GRU", "AdamLSTM", "DTRIV"])
@pytest.mark.parametrize("fault", [None, "llvmlite is absent"])
def test_second_derivative_is_refused(name, fault, monkeypatch):
    monkeypatch.setattr(fused, "compiler_fault", lambda: fault)
    cell = make(getattr(cells, name))
    y_BTH, _ = cell(torch.randn(2, 4, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"no second derivatives.* take engine='reference'"):
        torch.autograd.grad(y_BTH.sum(), list(cell.parameters()), create_graph=True)


def test_transforms_run_on_the_reference():
    cell = make(cells.GRU)
    x_BTI = torch.randn(2, 4, 3, dtype=torch.float64)
    expected = torch.stack([cell(x_BTI)[0], cell(2 * x_BTI)[0]])
    found = torch.func.vmap(lambda x_BTI: cell(x_BTI)[0])(torch.stack([x_BTI, 2 * x_BTI]))
    assert difference([found], [expected]) < 1e-12
    cell.engine = "auto"
    assert choose_engine(cell, x_BTI.to("meta")) == "reference"


def test_changed_plain_attribute_takes_effect():
    cell = make(Leaky, engine="auto")
    x_BTI = torch.randn(2, 4, 3, dtype=torch.float64)
    cell(x_BTI)
    cell.leak = 0.9
    assert difference([cell(x_BTI)[0]], [cell.loop(x_BTI, cell.initial_state(2))[0]]) < 1e-12


def test_changed_step_takes_effect(monkeypatch):
    cell = make(Leaky, engine="auto")
    x_BTI = torch.randn(2, 4, 3, dtype=torch.float64)
    before, _ = cell(x_BTI)
    monkeypatch.setattr(Leaky, "step", lambda self, x_BI, state: (self.from_input(x_BI) - state,) * 2)
    after, _ = cell(x_BTI)
    assert not torch.equal(before, after)
    assert difference([after], [cell.loop(x_BTI, cell.initial_state(2))[0]]) < 1e-12


class Sorted(Leaky):
    def step(self, x_BI, state):
        return super().step(x_BI, state.sort(1)[0])


class Dropped(Leaky):
    def step(self, x_BI, state):
        return super().step(x_BI, nn.functional.dropout(state, 0.5))


class Multiplied(Leaky):
    def step(self, x_BI, state):
        return super().step(x_BI, (state[:, :, None] @ state[:, None])[:, 0])


class Counted(Leaky):
    count = 0

    def step(self, x_BI, state):
        self.count += 1
        return super().step(x_BI, state)


class Branched(Leaky):
    def step(self, x_BI, state):
        return super().step(x_BI, -state if state.sum() > 0 else state)


class Detached(Leaky):
    def step(self, x_BI, state):
        y_BH, state = super().step(x_BI, state)
        return y_BH + (y_BH - y_BH.detach()), state


def test_gradient_stops_at_a_detached_value():
    cell = make(Detached)
    x_BTI, state = torch.randn(3, 9, 3, dtype=torch.float64), random_state(cell, 3)
    assert difference(run(cell, x_BTI, state), run(cell, x_BTI, state, cell.loop)) < 1e-12


class Corners(Leaky):
    """Functions without a derivative at zero: a norm, and the lower end of ReLU6."""

    def step(self, x_BI, state):
        z_BH = self.from_input(x_BI) + self.from_hidden(state)
        pairs_B2U = z_BH.view(len(z_BH), 2, -1)
        size_BU = torch.linalg.vector_norm(pairs_B2U, dim=1)
        h_BH = torch.cat([nn.functional.relu6(z_BH[:, : size_BU.shape[1]]), size_BU], 1)
        return h_BH, h_BH


def test_derivative_at_a_corner_is_that_of_torch():
    cell = make(Corners, H=6)
    with torch.no_grad():
        cell.from_input.bias.zero_()
    x_BTI = torch.randn(3, 9, 3, dtype=torch.float64)
    x_BTI[:, :4] = 0
    state = cell.initial_state(3)
    results = run(cell, x_BTI, state)
    assert all(result.isfinite().all() for result in results)
    assert difference(results, run(cell, x_BTI, state, cell.loop)) < 1e-12


class WithoutGradient(Leaky):
    def step(self, x_BI, state):
        with torch.no_grad():
            return super().step(x_BI, state)


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad


class OwnDerivative(Leaky):
    def step(self, x_BI, state):
        y_BH, state = super().step(x_BI, state)
        return Rounded.apply(y_BH), state


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Sorted, "step uses aten.sort, which is not a pointwise operation"),
        (Dropped, "step draws random numbers by aten.bernoulli"),
        (Multiplied, "step uses aten."),
        (Counted, "step changes attributes of the cell"),
        (Branched, "step cannot be traced"),
        (WithoutGradient, "step changes the gradient mode"),
        (OwnDerivative, "step cannot be traced"),
        (cells.NRU, "step uses aten."),
        (cells.LMU, "step uses aten.addmm"),
    ],
)
def test_step_that_does_not_fit_runs_on_the_reference(build, reason):
    cell = build(3, 4)
    engine, why = explain_engine(cell)
    assert engine == "reference"
    assert reason in why
    x_BTI = torch.randn(2, 4, 3)
    torch.manual_seed(1)
    found, _ = cell(x_BTI)
    torch.manual_seed(1)
    assert torch.equal(found, cell.loop(x_BTI, cell.initial_state(2))[0])
    cell.engine = "fused"
    with pytest.raises(ValueError, match=r"engine must be 'auto' or 'reference' for .*, got 'fused': step"):
        cell(x_BTI)


def test_other_core_step_is_not_given_to_the_kernel_of_torch():
    class Halved(cells.LSTM):
        """An LSTM with half of h."""

        def core_step(self, v_BG, u_BG, state):
            h_BH, state = super().core_step(v_BG, u_BG, state)
            return h_BH / 2, state._replace(h=h_BH / 2)

    with pytest.raises(ValueError, match="engine must be 'auto' for Halved"):
        Halved(3, 4, engine="library")


def test_workspace_limit():
    cell = make(Leaky)
    x_BTI = torch.randn(2, 4, 3, dtype=torch.float64)
    workspace.set_workspace_limit(0)
    try:
        run(cell, x_BTI, cell.initial_state(2))
        assert not workspace._idle
    finally:
        workspace.set_workspace_limit(2**30)
    run(cell, x_BTI, cell.initial_state(2))
    assert workspace._idle
    with pytest.raises(ValueError, match="size must be at least 0, got -1"):
        workspace.set_workspace_limit(-1)


def test_equal_graphs_share_a_program(monkeypatch):
    monkeypatch.setattr(fused, "_programs", {})
    compiled = Mock(wraps=fused._compile)
    monkeypatch.setattr(fused, "_compile", compiled)
    x_BTI = torch.randn(2, 4, 3)
    cell = cells.LSTM(3, 5)
    with torch.no_grad():
        for same in (cell, cell.eval(), cells.ChronoLSTM(3, 5, max_timescale=9)):
            same(x_BTI)
        assert compiled.call_count == 1
        for different in (cells.LSTM(3, 6), Leaky(3, 5), Leaky(3, 5, leak=0.25), cells.LSTM(3, 5).double()):
            y_BTH, _ = different(x_BTI.to(next(different.parameters()).dtype))
            assert_close(y_BTH, different.loop(x_BTI.to(y_BTH.dtype), different.initial_state(2))[0])
    assert compiled.call_count == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_forked_process():
    cell = make(cells.AdamLSTM, dtype=torch.float32)
    x_BTI = torch.randn(2, 4, 3)
    with torch.no_grad():
        expected, _ = cell(x_BTI)
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(cell(x_BTI)[0], expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture(params=["OpenMP", "pool"])
def two_threads(request, monkeypatch):
    """Two threads, of torch's OpenMP or of a pool."""
    monkeypatch.setattr(threads, "_forked", request.param == "pool")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_give_the_same_numbers():
    cell = make(cells.AdamLSTM)
    x_BTI = torch.randn(7, 4, 3, dtype=torch.float64)
    state = random_state(cell, 7)
    several = run(cell, x_BTI, state)
    torch.set_num_threads(1)
    assert_close(several, run(cell, x_BTI, state), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("two_threads")
def test_each_block_is_computed_once_and_an_error_reaches_the_caller():
    done = []
    threads.run_blocks(done.append, range(9), threads=2)
    assert sorted(done) == list(range(9))
    with pytest.raises(IndexError, match="block 3"):
        threads.run_blocks(fail_at_3, range(9), threads=2)


def fail_at_3(block):
    if block == 3:
        raise IndexError("block 3")


@pytest.mark.usefixtures("two_threads")
def test_denormal_numbers_are_flushed_in_blocks_only():
    within = []
    for before in (False, True):
        torch.set_flush_denormal(before)
        try:
            threads.run_blocks(lambda _: within.append(flushes_denormals()), range(4), threads=2)
            assert flushes_denormals() == before
        finally:
            torch.set_flush_denormal(False)
    assert within == [True] * 8


WITHOUT_LLVMLITE = """
import sys
sys.modules["llvmlite"] = None
import torch, cells
cell = cells.AdamLSTM(3, 4)
y, _ = cell(torch.randn(2, 5, 3))
y.sum().backward()
from cells.engines.fused import compiler_fault
print(compiler_fault())
"""


def test_without_llvmlite():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LLVMLITE], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "llvmlite" in done.stdout


def test_partial_of_a_cell_keeps_the_contract():
    cells.check_cell(partial(Leaky, leak=0.9))
