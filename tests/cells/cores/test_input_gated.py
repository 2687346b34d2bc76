"""minGRU and minLSTM: long sequences, extreme gates, the choice of the engine."""

import pytest
import torch
from helpers import cell_builders
from torch.testing import assert_close

import cells
from cells.engines import choice
from cells.engines.choice import choose_engine
from cells.state import leaves

NAMES = ["MinGRU", "MinLSTM", "MomentumMinGRU", "LRU"]


def run(cell, x_BTI, forward):
    """Return outputs, last state, and the gradients of a fixed function of them, also in the initial state."""
    x_BTI = x_BTI.detach().requires_grad_()
    torch.manual_seed(1)
    state = torch.utils._pytree.tree_map(
        lambda leaf: torch.rand_like(leaf).requires_grad_(), cell.initial_state(len(x_BTI))
    )
    y_BTH, last = forward(x_BTI, state)
    results = [y_BTH, *leaves(last)]
    loss = sum((leaf * torch.linspace(-1, 1, leaf.numel(), dtype=leaf.dtype).view_as(leaf)).sum() for leaf in results)
    return [*results, *torch.autograd.grad(loss, [x_BTI, *leaves(state), *cell.parameters()])]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["scan", "fused"])
@pytest.mark.parametrize("name", NAMES)
def test_4096_steps_equal_the_step_loop(name, engine):
    cell = cell_builders.random_cell(getattr(cells, name), 3, 16, engine=engine)
    x_BTI = torch.randn(2, 4096, 3, dtype=torch.float64)
    for found, expected in zip(run(cell, x_BTI, cell), run(cell, x_BTI, cell.loop), strict=True):
        assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ["reference", "scan", "fused"])
@pytest.mark.parametrize("name", ["MinGRU", "MinLSTM"])
def test_closed_and_open_gates_stay_finite(name, engine):
    """Pre-activations of +-300: their exponential functions leave the range of float32."""
    cell = getattr(cells, name)(1, 2, engine=engine, candidate="identity")
    gates = torch.tensor([300.0, -300.0])
    for first in gates:
        for second in gates if name == "MinLSTM" else gates[:1]:
            with torch.no_grad():
                cell.weight_ih.zero_()
                cell.bias_ih.fill_(0.5)
                cell.bias_ih[:2] = first
                if name == "MinLSTM":
                    cell.bias_ih[2:4] = second
            state = cell.initial_state(1)
            state.core.h.fill_(2.0)
            y_BTH, _ = cell(torch.zeros(1, 1, 1), state)
            if name == "MinGRU":
                keep = 0.0 if first > 0 else 1.0
            else:  # sig(f) / (sig(f) + sig(i))
                keep = 0.5 if first == second else float(first > second)
            assert_close(y_BTH[0, 0], torch.full((2,), 2 * keep + 0.5 * (1 - keep)), rtol=1e-6, atol=0)
            gradients = torch.autograd.grad(y_BTH.sum(), list(cell.parameters()))
            assert all(gradient.isfinite().all() for gradient in gradients)


def test_positive_candidate_keeps_the_state_positive():
    for name in ("MinGRU", "MinLSTM"):
        y_BTH, _ = getattr(cells, name)(3, 5)(4 * torch.randn(2, 30, 3))
        assert (y_BTH > 0).all()
        y_BTH, _ = getattr(cells, name)(3, 5, candidate="identity")(4 * torch.randn(2, 30, 3))
        assert (y_BTH < 0).any()


@pytest.mark.parametrize("name", ["MinGRU", "MinLSTM"])
def test_resting_forget_bias_is_the_logit_of_what_is_kept(name):
    cell = cell_builders.random_cell(getattr(cells, name), 3, 5)
    state = cell.initial_state(1)
    first, _ = cell(torch.zeros(1, 1, 3, dtype=torch.float64), state)
    state.core.h.fill_(1.0)
    second, _ = cell(torch.zeros(1, 1, 3, dtype=torch.float64), state)
    assert_close(torch.sigmoid(cell.resting_forget_bias()), (second - first)[0, 0].detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_auto_takes_the_scan_where_nothing_is_compiled(name, monkeypatch):
    cell = getattr(cells, name)(3, 4)
    assert choose_engine(cell) == "fused"
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_engine(cell) == "scan"
    assert choose_engine(cell, torch.empty(1, 1, 3, device="meta")) == "reference"
    monkeypatch.setattr(choice, "compiler_fault", lambda: "llvmlite is absent")
    assert choose_engine(cell) == "scan"


@pytest.mark.parametrize("name", NAMES)
def test_exported_program_scans(name):
    cell = getattr(cells, name)(3, 4).eval()
    x_BTI = torch.randn(2, 9, 3)
    with torch.no_grad():
        program = torch.export.export(cell, (x_BTI,))
        assert_close(program.module()(x_BTI)[0], cell(x_BTI)[0], rtol=0, atol=1e-5)
    loops = sum(node.target is torch.ops.aten.sigmoid.default for node in program.graph.nodes)
    assert loops <= 3  # one for each gate, not one for each step


def test_other_cells_cannot_scan():
    with pytest.raises(ValueError, match="engine must be 'auto' for GRU, which is not linear in its state, got 'scan'"):
        cells.GRU(3, 4, engine="scan")
    with pytest.raises(ValueError, match="candidate must be one of 'positive', 'identity', got 'tanh'"):
        cells.MinGRU(3, 4, candidate="tanh")
