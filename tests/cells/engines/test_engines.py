"""Every engine returns the numbers of the reference."""

import copy
from functools import partial
from itertools import product

import pytest
import torch
from helpers import cell_builders
from torch.nn.utils import parametrize

import cells
from cells.engines import choice
from cells.engines.choice import choose_engine
from cells.engines.fused import layout, torch_ops
from cells.state import leaves

OTHER_NAMES = ("Chrono", "Scaled", "Learned")  # other initial values of cells that are tested anyway
DRIVEN = {name: build for name, build in cell_builders.DRIVEN.items() if not name.startswith(OTHER_NAMES)}
WITHOUT_BIAS = [name for name in cell_builders.BIAS_OR_NOT if name in DRIVEN]
SIZES = [(1, 1, 1), (3, 2, 1), (1, 63, 1), (3, 1, 5), (1, 2, 5), (3, 63, 5), (1, 1, 130), (3, 63, 130)]  # B, T, H
CHAOTIC = {"NesterovDTRIV": 2}  # the longest T at which rounding does not grow beyond any tolerance


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Use chunks of a few steps, so that short sequences have several, the last one shorter."""
    monkeypatch.setattr(layout, "CHUNK", 256)
    monkeypatch.setattr(layout, "LEAST_ROWS", 1)
    monkeypatch.setitem(torch_ops.CHUNK, "cpu", 256)


def make(name, I, H, engine, dtype=torch.float64, **arguments):  # noqa: E741
    torch.manual_seed(0)
    cell = DRIVEN[name](I, cell_builders.width(DRIVEN[name], H), engine=engine, **arguments).to(dtype)
    if hasattr(cell, "modrelu_bias"):
        cell.modrelu_bias.data.uniform_(-0.3, 0)  # modReLU with a positive bias is discontinuous
    return cell


def run(cell, x_BTI, state):
    """Return outputs, last state, and the gradients of a fixed random function of them in everything they depend on."""
    x_BTI = x_BTI.detach().requires_grad_()
    state = torch.utils._pytree.tree_map(
        lambda leaf: leaf.detach().requires_grad_() if leaf.is_floating_point() else leaf, state
    )
    y_BTH, last = cell(x_BTI, state)
    results = [leaf for leaf in (y_BTH, *leaves(last)) if leaf.is_floating_point()]
    sources = [x_BTI, *(leaf for leaf in leaves(state) if leaf.is_floating_point()), *cell.parameters()]
    generator = torch.Generator().manual_seed(1)
    loss = sum((leaf * torch.randn(leaf.shape, generator=generator).to(leaf)).sum() for leaf in results)
    return [*results, *torch.autograd.grad(loss, sources, materialize_grads=True)]


def difference(found, expected):
    """Return the largest difference, relative to the larger of 1 and the largest number of the tensor."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
        for a, b in zip(found, expected, strict=True)
        if a.numel()
    )


def engines_of(name, **arguments):
    return [engine for engine in cell_builders.engines_of(DRIVEN[name], **arguments) if engine != "reference"]


@pytest.mark.parametrize("name", cell_builders.some(DRIVEN))
def test_engines_equal_the_reference(name):
    for B, T, H in SIZES:
        if CHAOTIC.get(name, T) < T:
            continue
        reference = make(name, 3, H, "reference")
        x_BTI = torch.randn(B, T, 3, dtype=torch.float64)
        state = cell_builders.random_state(reference, B)
        expected = run(reference, x_BTI, state)
        for engine in engines_of(name):
            found = run(make(name, 3, H, engine), x_BTI, state)
            assert difference(found, expected) < 1e-12, f"{engine} at B {B}, T {T}, H {H}"


@pytest.mark.parametrize("name", cell_builders.some(DRIVEN))
def test_engines_equal_the_reference_in_float32(name):
    reference = make(name, 3, 5, "reference", torch.float32)
    x_BTI = torch.randn(3, min(20, CHAOTIC.get(name, 20)), 3)
    state = cells.state.detach(reference(x_BTI)[1])
    expected = run(reference, x_BTI, state)
    for engine in engines_of(name):
        assert difference(run(make(name, 3, 5, engine, torch.float32), x_BTI, state), expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, {"bias": False}) for name in WITHOUT_BIAS if name in cell_builders.ONE_OF_A_KIND),
        *(
            cell_builders.slow(name, {"bias": False})
            for name in WITHOUT_BIAS
            if name not in cell_builders.ONE_OF_A_KIND
        ),
        *(
            (drive + core, {"learn": learn})
            for drive, core, learn in product(
                ("Momentum", "SR", "RMSProp", "Adam"), ("LSTM", "GRU", "DTRIV"), ("scalar", "unit")
            )
        ),
        ("AdamLSTM", {"delta_in_root": False}),
        ("NesterovGRU", {"sign": -1, "restart_period": 3}),
    ],
)
def test_engines_equal_the_reference_with_options(name, arguments):
    reference = make(name, 3, 5, "reference", **arguments)
    x_BTI = torch.randn(3, 7, 3, dtype=torch.float64)
    state = cell_builders.random_state(reference, 3)
    expected = run(reference, x_BTI, state)
    for engine in engines_of(name, **arguments):
        found = run(make(name, 3, 5, engine, **arguments), x_BTI, state)
        assert difference(found, expected) < 1e-12, engine


@pytest.mark.parametrize("name", cell_builders.some(DRIVEN))
def test_another_engine_continues_a_sequence(name):
    x_BTI = torch.randn(3, 8, 3, dtype=torch.float64)
    made = [make(name, 3, 5, engine) for engine in ("reference", *engines_of(name))]
    expected, last = made[0](x_BTI)
    for first, second in product(made, made):
        before, middle = first(x_BTI[:, :3])
        after, end = second(x_BTI[:, 3:], middle)
        assert difference([torch.cat([before, after], 1), *leaves(end)], [expected, *leaves(last)]) < 1e-12


@pytest.mark.parametrize("name", ["LSTM", "AdamGRU", "NesterovRNN", "MomentumDTRIV"])
def test_fused_keeps_the_contract(name):
    """The same as ``auto`` (test_engine_auto, tests/cells/test_checks.py), but nothing may fall back to the loop."""
    cells.check_cell(partial(DRIVEN[name], engine="fused"))


@pytest.mark.parametrize("name", ["LSTM", "AdamGRU", "NesterovRNN", "MomentumDTRIV"])
def test_fused_accepts_any_memory_order_and_expanded_gradients(name):
    cell = make(name, 3, 5, "fused")
    x_BTI = torch.randn(3, 8, 4, dtype=torch.float64)
    odd = x_BTI.permute(2, 1, 0).flip(0)[:, :, :3].transpose(1, 2).permute(0, 2, 1)[:3]
    plain = odd.contiguous()
    state = cell.initial_state(len(odd))
    assert difference(run(cell, odd, state), run(cell, plain, state)) == 0
    first, second = (torch.autograd.grad(cell(plain)[0].sum() * 2, cell.weight_ih)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "DTRIV", "AdamLSTM", "NesterovGRU"])
def test_fused_backward_may_run_twice(name):
    cell = make(name, 3, 5, "fused")
    loss = cell(torch.randn(2, 8, 3, dtype=torch.float64))[0].square().sum()
    parameters = list(cell.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert difference(torch.autograd.grad(loss, parameters), first) == 0


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "DTRIV", "RMSPropLSTM", "NesterovLSTM"])
def test_fused_with_a_part_of_the_outputs_or_gradients(name):
    """A loss of the last state only, frozen weights, no gradients."""
    x_BTI = torch.randn(2, 8, 3, dtype=torch.float64)
    reference, cell = make(name, 3, 5, "reference"), make(name, 3, 5, "fused")
    found, expected = (
        torch.autograd.grad(leaves(each(x_BTI)[1].core)[-1].square().sum(), each.weight_ih)
        for each in (cell, reference)
    )
    assert difference(found, expected) < 1e-12
    with torch.no_grad():
        y_BTH, _ = cell(x_BTI)
    assert y_BTH.grad_fn is None
    assert difference([y_BTH], [reference(x_BTI)[0]]) < 1e-12
    with torch.inference_mode():
        assert difference([cell(x_BTI)[0]], [y_BTH]) == 0
    cell.requires_grad_(False)
    x_BTI.requires_grad_()
    found, expected = (torch.autograd.grad(each(x_BTI)[0].square().sum(), x_BTI) for each in (cell, reference))
    assert difference(found, expected) < 1e-12


class Drop(torch.nn.Module):
    def forward(self, weight):
        torch.manual_seed(2)
        return torch.nn.functional.dropout(weight, 0.5)


@pytest.mark.parametrize("name", ["LSTM", "AdamLSTM", "RMSPropGRU", "NesterovLSTM", "MomentumRNN"])
def test_weight_drop(name):
    reference = make(name, 3, 6, "reference")
    x_BTI = torch.randn(2, 8, 3, dtype=torch.float64)
    results = []
    for engine in ("reference", *engines_of(name)):
        cell = copy.deepcopy(reference)
        cell.engine = engine
        parametrize.register_parametrization(cell, "weight_hh", Drop())
        results.append(run(cell, x_BTI, cell.initial_state(2)))
    for found in results[1:]:
        assert difference(found, results[0]) < 1e-12


@pytest.mark.parametrize(
    "name", cell_builders.few([name for name in DRIVEN if "DTRIV" not in name and name != "UnitaryRNN"])
)
def test_fused_under_autocast(name):
    """Products are in bfloat16; outputs, states and the rest of the recurrence stay in float32."""
    cell = make(name, 3, 16, "fused", torch.float32)
    x_BTI = torch.randn(3, 8, 3)
    exact = run(cell, x_BTI, cell.initial_state(3))
    with torch.autocast("cpu", torch.bfloat16):
        low = run(cell, x_BTI, cell.initial_state(3))
    assert {leaf.dtype for leaf in low} == {torch.float32}
    assert 1e-5 < difference(low, exact) < 0.1


@pytest.mark.parametrize("name", [name for name in DRIVEN if "DTRIV" in name or name == "UnitaryRNN"])
def test_orthogonal_cells_ignore_autocast(name):
    cell = make(name, 3, 16, "fused", torch.float32)
    x_BTI = torch.randn(3, 4, 3)
    exact, _ = cell(x_BTI)
    with torch.autocast("cpu", torch.bfloat16):
        low, _ = cell(x_BTI)
    assert difference([low], [exact]) == 0


def test_engine_auto(monkeypatch):
    assert {choose_engine(make(name, 3, 5, "auto")) for name in DRIVEN} == {"fused"}
    some = {name: make(name, 3, 5, "auto") for name in ("LSTM", "MomentumLSTM", "AdamLSTM", "GRU")}
    by_kernel = {"LSTM": "library", "MomentumLSTM": "library", "AdamLSTM": "fused", "GRU": "fused"}
    several, single = torch.randn(2, 4, 3), torch.randn(1, 4, 3)
    assert {choose_engine(cell, several) for cell in some.values()} == {"fused"}
    assert {name: choose_engine(cell, single) for name, cell in some.items()} == by_kernel
    with torch.autocast("cpu", torch.bfloat16):  # the kernel would keep the state in low precision too
        assert {choose_engine(cell, single) for cell in some.values()} == {"fused"}
    monkeypatch.setattr(choice, "compiler_fault", lambda: "llvmlite is absent")
    assert {name: choose_engine(cell, several) for name, cell in some.items()} == by_kernel
