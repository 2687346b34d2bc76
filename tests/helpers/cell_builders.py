"""Cells with random parameters and states, and their comparison with the oracle."""

import functools

import numpy as np
import pytest
import torch

from cells import Core, DrivenCell, registered_cells
from cells.ablations import GatedMomentum
from cells.cores.input_gated import InputGatedCore
from cells.cores.modrelu import ModReLUCore
from cells.cores.refined_gates import URCore
from cells.engines.choice import ENGINES
from cells.nesterov import NesterovState
from cells.registry import origin
from cells.state import leaves
from helpers import oracle

BUILT_IN = {name: cell for name, found in registered_cells().items() for cell in found if origin(cell) == "built in"}
DRIVEN = {name: cell for name, cell in BUILT_IN.items() if issubclass(cell, Core)}
DRIVE_NAMES = ("Momentum", "SR", "RMSProp", "Adam", "Nesterov")
MIXED = ("MomentumGRU", "MomentumDTRIV", "MomentumLEM", "SRRNN", "AdamRNN", "RMSPropJANET", "NesterovGRU")
COMBINED = {  # their drive and their core are also parts of cells that are tested by default
    name
    for name in DRIVEN
    if name.startswith(DRIVE_NAMES) and name not in MIXED and name not in {f"{drive}LSTM" for drive in DRIVE_NAMES}
}
CORES = (
    "CayleyRNN",
    "ExpRNN",
    "DTRIV",
    "HouseholderRNN",
    "UnitaryRNN",
    "JANET",
    "MinGRU",
    "MinLSTM",
    "LEM",
    "SLSTM",
    "URLSTM",
    "URGRU",
    "LSTM",
    "GRU",
    "RNN",
)
ONE_OF_A_KIND = {
    "LSTM",
    "GRU",
    "AdamLSTM",
    "NesterovGRU",
    "MomentumDTRIV",
    "LEM",
    "SLSTM",
    "MinGRU",
    "LMU",
    "NRU",
    "LRU",
}
DRIVES = {"Chrono": "", "Scaled": "Momentum", "LearnedMomentum": "Momentum"}  # under other names
WITH_BIAS = [name for name, build in DRIVEN.items() if not issubclass(build, (ModReLUCore, InputGatedCore))]
BIAS_OR_NOT = [name for name in WITH_BIAS if not name.startswith("Chrono") and not issubclass(DRIVEN[name], URCore)]
EPS = 1e-30


def slow(*values):
    """Return parameters of a test that is slow with them."""
    return pytest.param(*values, marks=pytest.mark.slow)


def some(names):
    """Return names of cells as parameters of a test that compiles each cell. Those in ``COMBINED`` are slow."""
    return [slow(name) if name in COMBINED else name for name in names]


def few(names):
    """Return names of cells as parameters of a test of something that they share. All but one of a kind are slow."""
    return [name if name in ONE_OF_A_KIND else slow(name) for name in names]


def kind(cell):
    """Return the drive and the core of a cell, from its name."""
    name = type(cell).__name__
    core = next(core for core in CORES if name.endswith(core))
    drive = name.removesuffix(core)
    return DRIVES.get(drive, drive), core


def width(build, H):
    """Return H, or the next width that the cell accepts, because complex units come in pairs."""
    return H + H % 2 if build.__name__.endswith("UnitaryRNN") else H


def engines_of(build, **arguments):
    """Return the engines that accept a cell. ``auto`` is left out, because it selects one of the others."""
    found = []
    for engine in ENGINES:
        if engine == "auto":
            continue
        try:
            build(2, 4, engine=engine, **arguments)
        except ValueError:
            continue
        found.append(engine)
    return found


def random_cell(build, I, H, **arguments):  # noqa: E741
    """Return a cell in float64 with random parameters that are large enough to reach all branches.

    The weights are drawn in float64. Drawn in float32, they would differ by 1e-7 between processors, and a unit of a
    modReLU could be on either side of its jump.
    """
    torch.set_default_dtype(torch.float64)
    try:
        cell = build(I, width(build, H), **arguments).double()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        if isinstance(cell, ModReLUCore):
            cell.modrelu_bias.uniform_(-0.3, 0.3)
            if hasattr(cell, "skew"):
                cell.skew.normal_(std=0.3)
            if hasattr(cell, "vectors"):  # a reflection does not depend on the length, but rounding grows as 1 / length
                cell.vectors.add_(torch.sign(cell.vectors))
        if isinstance(cell, DrivenCell) and isinstance(cell.drive, GatedMomentum):
            cell.drive.weight.normal_()
    return cell


def random_state(cell, rows):
    """Return a state of which no number is zero."""
    named = name_state(cell, cell.initial_state(rows))
    for name, leaf in named.items():
        if name == "k":
            leaf.random_(0, 4)
        else:
            leaf.copy_(torch.randn_like(leaf) ** 2 + 0.1 if name in ("m", "n") else torch.randn_like(leaf))
    named = {name: leaf.clone() for name, leaf in named.items()}
    state = torch.utils._pytree.tree_unflatten(
        list(named.values()), torch.utils._pytree.tree_structure(cell.initial_state(rows))
    )
    for leaf in leaves(state):
        leaf.requires_grad_(leaf.is_floating_point())
    return state


def name_state(cell, state):
    """Return the leaves of a state by name: v, m, p, k, y_input, y_hidden, h, c, z, n."""
    if isinstance(state, NesterovState):
        return {**{name: getattr(state, name) for name in ("y_input", "y_hidden", "k")}, **state.core._asdict()}
    if isinstance(state.drive, torch.Tensor):
        drive = {"m" if kind(cell)[0] == "RMSProp" else "v": state.drive}
    else:
        drive = state.drive._asdict() if state.drive else {}
    return {**drive, **state.core._asdict()}


def in_gate_space(cell, named, W, b_ih, cat):
    """Return a named state (tensors or arrays) in the form of the oracle."""
    named = dict(named)
    if "y_input" in named:
        y_input, y_hidden = named.pop("y_input"), named.pop("y_hidden")
        named["y"] = y_input + y_hidden
        if kind(cell)[1] == "GRU":
            H = cell.hidden_size
            named["y"] = cat([named["y"][..., : 2 * H], y_input[..., 2 * H :], y_hidden[..., 2 * H :]], -1)
    elif "v" in named and cell.drive.commutes_with_weights:
        v = named["v"][..., : cell.input_size] @ W.mT
        named["v"] = v if b_ih is None else v + named["v"][..., cell.input_size :] * b_ih[..., None, :]
    return named


def run_cell(cell, x, state):
    """Return outputs and the last state in gate space, computed by torch."""
    y, last = cell(x, state)
    named = in_gate_space(cell, name_state(cell, last), cell.weight_ih, cell.bias_ih, torch.cat)
    return {"y_BTH": y, **{f"last {name}": leaf for name, leaf in named.items()}}


def run_oracle(cell, arrays):
    """Return the same, computed by the oracle. The arrays have the names of :func:`sources`."""
    drive, core = kind(cell)
    weights = {"W": arrays["weight_ih"], "b_ih": arrays.get("bias_ih"), "b_hh": arrays.get("bias_hh")}
    weights["modrelu_bias"] = arrays.get("modrelu_bias")
    if core == "UnitaryRNN":
        weights["U"] = oracle.unitary(arrays["skew"])
    elif core == "HouseholderRNN":
        weights["U"] = oracle.reflections(arrays["vectors"], cell.hidden_size, cell.reflections)
    elif "skew" in arrays:
        weights["U"] = oracle.orthogonal(core, cell.manifold.base.numpy(), arrays["skew"])
    elif core == "SLSTM":
        weights["U"] = oracle.block_diagonal(arrays["weight_hh"], cell.heads)
    else:
        weights["U"] = arrays.get("weight_hh")
    named = {name.removeprefix("state "): a for name, a in arrays.items() if name.startswith("state ")}
    state = in_gate_space(cell, named, weights["W"], weights["b_ih"], np.concatenate)
    y, last = oracle.run(drive, core, _numbers(cell, arrays), weights, arrays["x"], state)
    return {"y_BTH": y, **{f"last {name}": array for name, array in last.items()}}


def sources(cell, x, state):
    """Return the tensors that a run depends on, by name."""
    state_leaves = {f"state {name}": leaf for name, leaf in name_state(cell, state).items()}
    return {"x": x, **state_leaves, **dict(cell.named_parameters())}


def compare(cell, x, state, per_tensor=2):
    """Return the largest differences of a cell from the oracle, relative to max(1, largest value of the oracle).

    Compared are values, and derivatives of a fixed random function of all outputs and last states. Derivatives are
    taken along ``per_tensor`` random directions in each tensor. None: along one direction in all tensors together.
    """
    oracle_run = functools.partial(run_oracle, cell)
    return compare_runs(sources(cell, x, state), run_cell(cell, x, state), oracle_run, per_tensor)


def compare_loop(cell, x, state, loop):
    """Do what :func:`compare` does for a cell that is not made of a drive and a core, with a loop in numpy.

    ``loop`` gets x, the leaves of the state and a dictionary of the parameters, as arrays, and returns the outputs and
    the leaves of the last state.
    """
    y, last = cell(x, state)
    outputs = {"y": y, **{f"last {n}": leaf for n, leaf in enumerate(leaves(last))}}
    states = {f"state {n}": leaf for n, leaf in enumerate(leaves(state))}

    def run(arrays):
        weights = {name: arrays[name] for name, _ in cell.named_parameters()}
        y, *last = loop(arrays["x"], [arrays[name] for name in states], weights)
        return {"y": y, **{f"last {n}": leaf for n, leaf in enumerate(last)}}

    return compare_runs({"x": x, **states, **dict(cell.named_parameters())}, outputs, run)


def compare_runs(named, outputs, run, per_tensor=2):
    """Compare ``outputs``, computed by torch from the tensors ``named``, with those of ``run`` from their arrays."""
    arrays = {name: tensor.detach().numpy() for name, tensor in named.items()}
    expected = run(arrays)
    assert outputs.keys() == expected.keys()
    differences = {name: _difference(outputs[name].detach().numpy(), expected[name]) for name in outputs}

    real = {name: array for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)}
    rng = np.random.default_rng(0)
    rows = {
        name: [0] if per_tensor is None else range(n * per_tensor, (n + 1) * per_tensor) for n, name in enumerate(real)
    }
    directions = {name: np.zeros((max(map(max, rows.values())) + 1, *array.shape)) for name, array in real.items()}
    for name, rows_of_name in rows.items():
        for row in rows_of_name:
            directions[name][row] = rng.standard_normal(real[name].shape)
    function = {name: rng.standard_normal(e.shape) for name, e in expected.items() if name != "last k"}

    stepped = run(arrays | {name: real[name] + 1j * EPS * d for name, d in directions.items()})
    slopes = sum(
        (weights * stepped[name].imag / EPS).reshape(-1, weights.size).sum(1) for name, weights in function.items()
    )
    loss = sum((outputs[name] * torch.from_numpy(weights)).sum() for name, weights in function.items())
    gradients = torch.autograd.grad(loss, [named[name] for name in real], materialize_grads=True)
    found = sum(
        (directions[name] * gradient.numpy()).reshape(len(slopes), -1).sum(1)
        for name, gradient in zip(real, gradients, strict=True)
    )
    for name, rows_of_name in rows.items():
        differences[f"gradient of {name}"] = _difference(found[list(rows_of_name)], slopes[list(rows_of_name)])
    return differences


def _difference(found, expected):
    assert found.shape == expected.shape, f"{found.shape} and {expected.shape}"
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())) if expected.size else 0.0


def _numbers(cell, arrays):
    drive = cell.drive if not hasattr(cell, "sign") else cell
    numbers = oracle.Numbers(sign=getattr(cell, "sign", 1), restart_period=getattr(drive, "restart_period", 1))
    for name in ("beta", "delta", "delta_in_root"):
        setattr(numbers, name, getattr(drive, name, 0.0))
    for name in ("lag", "dt", "candidate", "forget_gate"):
        setattr(numbers, name, getattr(cell, name, getattr(numbers, name)))
    if isinstance(drive, GatedMomentum):
        numbers.gate = arrays["drive.weight"], arrays["drive.bias"]
        numbers.step_size = drive.step_size
        return numbers
    for name in ("momentum", "step_size"):
        coefficient = getattr(drive, name, 1.0)
        raw = arrays.get(f"drive.{name}.raw")
        if raw is not None:
            limited = np.isfinite(coefficient.high)
            value = coefficient.high * oracle.sigmoid(raw) if limited else oracle.softplus(raw)
            setattr(numbers, name, value[..., None, :])
        else:
            setattr(numbers, name, getattr(coefficient, "value", coefficient))
    return numbers
