"""States: every cell and engine refuses a state that does not fit, with what it must be and what it got."""

import pytest
import torch
from helpers import cell_builders
from helpers.cell_builders import BUILT_IN, slow
from torch.utils._pytree import tree_map

from cells import LSTM, MomentumLSTM
from cells.registry import own_parameters
from cells.state import check_state


def engines_of(name):
    return cell_builders.engines_of(BUILT_IN[name]) if "engine" in own_parameters(BUILT_IN[name]) else ["none"]


CASES = [(name, engine) for name in BUILT_IN for engine in engines_of(name)]


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_every_engine_refuses_other_rows_units_dtypes_and_devices(name, engine):
    arguments = {} if engine == "none" else {"engine": engine}
    cell, wider = (BUILT_IN[name](2, H, **arguments) for H in (4, 6))
    x_BTI = torch.randn(3, 2, 2)
    fitting = cell.initial_state(3)
    for state in (
        cell.initial_state(1),
        cell.initial_state(5),
        wider.initial_state(3),
        tree_map(lambda leaf: leaf.half(), fitting),
        tree_map(lambda leaf: leaf.to("meta"), fitting),
    ):
        with pytest.raises(ValueError, match=f"the state of {name} must be .*got "):
            cell(x_BTI, state)


def test_message_shows_the_expected_and_the_given_state():
    with pytest.raises(ValueError, match="the state of LSTM must be") as caught:
        LSTM(2, 6)(torch.randn(2, 3, 2), LSTM(2, 6).initial_state(1).core)
    assert str(caught.value) == (
        "the state of LSTM must be DrivenState(drive=(), core=LSTMState(h=float32 (2, 6) on cpu, "
        "c=float32 (2, 6) on cpu)), got LSTMState(h=float32 (1, 6) on cpu, c=float32 (1, 6) on cpu)"
    )


@pytest.mark.parametrize("state", [(), (torch.zeros(2, 3),) * 2, [torch.zeros(2, 3)], torch.zeros(2, 3), (1.0,)])
def test_other_structures_are_refused(state):
    with pytest.raises(ValueError, match="the state must be"):
        check_state("the state", state, (torch.zeros(2, 3),))


def test_autocast_accepts_a_state_in_low_precision():
    low, full = torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        check_state("the state", low, full)
    with pytest.raises(ValueError, match="must be float32"):
        check_state("the state", low, full)


COMPILED = [
    ("LSTM", "library"),
    ("MomentumLSTM", "library"),
    ("MomentumGRU", "reference"),
    slow("FilteredLSTM", "library"),
    slow("GatedMomentumLSTM", "library"),
    slow("SRLSTM", "library"),
    ("MomentumGRU", "fused"),
]


@pytest.mark.parametrize(("name", "engine"), COMPILED)
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_compiled_cell_has_the_same_state_and_gradients(name, engine):
    torch._dynamo.reset()
    cell = BUILT_IN[name](3, 5, engine=engine)
    results = []
    for run in (cell, torch.compile(cell, backend="aot_eager")):
        x_BTI = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y_BTH, state = run(x_BTI)
        tensors = [y_BTH, *(leaf for leaf in torch.utils._pytree.tree_leaves(state) if leaf.is_floating_point())]
        gradients = torch.autograd.grad(sum(t.sin().sum() for t in tensors), [x_BTI, *cell.parameters()])
        results.append([*tensors, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_carry_count_false_checks_the_state_too():
    with pytest.raises(ValueError, match="the state of SRLSTM must be"):
        BUILT_IN["SRLSTM"](2, 4, carry_count=False)(torch.randn(2, 3, 2), MomentumLSTM(2, 4).initial_state(2))
