"""Layers of cells: equal to torch.nn.LSTM, to the layers one by one, and to unpadded runs of each sequence.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cells import DTRIV, GRU, LSTM, NRU, AdamLSTM, Cell, MomentumLSTM, Stack, check_cell, reset_rows
from cells.state import leaves

B, T, I, H = 4, 7, 3, 4  # noqa: E741
LENGTHS = torch.tensor([7, 2, 4, 2])
CELLS = [LSTM, AdamLSTM, DTRIV, NRU]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def float64_and_seed():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def lstm_pair(**options) -> tuple[nn.LSTM, Stack]:
    """Return torch's LSTM and a stack with the same weights."""
    expected, found = nn.LSTM(I, H, batch_first=True, **options), Stack(LSTM, I, H, **options)
    for direction, layers in {"": found.layers, "_reverse": found.reverse_layers}.items():
        for number, cell in enumerate(layers):
            for name, parameter in cell.named_parameters():
                parameter.data.copy_(getattr(expected, f"{name}_l{number}{direction}"))
    return expected, found


def torchs_names(name: str) -> str:
    """Return torch's name of a parameter: ``weight_hh_l1_reverse`` for ``reverse_layers.1.weight_hh``."""
    layers, number, parameter = name.split(".")
    return f"{parameter}_l{number}" + ("_reverse" if layers == "reverse_layers" else "")


def random_state(stack: Stack):
    """Return a random state of a stack of LSTMs, and the same numbers as torch's (h, c)."""
    h, c = torch.randn(2, stack.num_layers * (1 + stack.bidirectional), B, H).requires_grad_().unbind()
    spec = torch.utils._pytree.tree_structure(stack.initial_state(B))
    entries = [part for pair in zip(h.unbind(), c.unbind(), strict=True) for part in pair]
    return torch.utils._pytree.tree_unflatten(entries, spec), (h, c)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_equals_torchs_lstm_in_outputs_states_and_gradients(num_layers, bidirectional, lengths):
    reference, stack = lstm_pair(num_layers=num_layers, bidirectional=bidirectional)
    x, (state, torchs_state) = torch.randn(B, T, I, requires_grad=True), random_state(stack)
    if lengths is None:
        expected_y, (h, c) = reference(x, torchs_state)
    else:
        packed, (h, c) = reference(pack_padded_sequence(x, lengths, True, enforce_sorted=False), torchs_state)
        expected_y, _ = pad_packed_sequence(packed, True)
    y, last = stack(x, state, lengths)
    expected = [expected_y, *(part for pair in zip(h.unbind(), c.unbind(), strict=True) for part in pair)]
    found = [y, *leaves(last)]
    torch.testing.assert_close(found, expected, **EXACT)

    names, parameters = zip(*stack.named_parameters(), strict=True)
    torchs_parameters = [reference.get_parameter(torchs_names(name)) for name in names]
    assert len(parameters) == len(list(reference.parameters()))
    gradients = [
        torch.autograd.grad(sum(tensor.sin().sum() for tensor in results), [x, *torchs_state, *weights])
        for results, weights in ((found, parameters), (expected, torchs_parameters))
    ]
    torch.testing.assert_close(*gradients, **EXACT)


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("input_size", [I, H], ids=["narrow", "as_wide"])
def test_layers_are_connected_as_documented(input_size, residual, norm):
    """Only the first layer of a narrow input has no residual connection, and reads what is not normalized."""
    stack = Stack(GRU, input_size, H, 3, residual=residual, norm=norm)
    for parameter in stack.norms.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(B, T, input_size)

    def normalized(s, number):
        module = stack.norms[number]
        if norm == "layer":
            return F.layer_norm(s, (H,), module.weight, module.bias)
        return s / (s.square().mean(-1, keepdim=True) + torch.finfo(s.dtype).eps).sqrt() * module.weight

    s = z = x
    states = []
    for number, cell in enumerate(stack.layers):
        y, state = cell(z)
        s = s + y if residual and (number or input_size == H) else y
        z = s if norm == "none" else normalized(s, number)
        states.append(state)
    found, last = stack(x)
    torch.testing.assert_close(found, z, **EXACT)
    torch.testing.assert_close(leaves(last), leaves(states), **EXACT)


@pytest.mark.parametrize("options", [{}, {"residual": True, "norm": "layer"}], ids=["plain", "residual"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("cell", CELLS)
def test_padded_sequence_equals_its_unpadded_run(cell, bidirectional, options):
    """In outputs, last states, and the gradients of parameters and inputs, whatever the padding holds."""
    stack = Stack(cell, I, H, 2, bidirectional=bidirectional, **options)
    x = torch.randn(B, T, I)
    padding = torch.arange(T)[:, None] >= LENGTHS[:, None, None]
    padded = x.masked_fill(padding, 1e3).requires_grad_()
    y, last = stack(padded, lengths=LENGTHS)
    assert not y[padding[..., 0]].any()
    torch.testing.assert_close(stack.outputs(padded, LENGTHS), y, **EXACT)

    alone, expected = x.clone().requires_grad_(), 0
    for row, length in enumerate(LENGTHS.tolist()):
        y_row, last_row = stack(alone[row : row + 1, :length])
        torch.testing.assert_close(y[row : row + 1, :length], y_row, **EXACT)
        for found, leaf in zip(leaves(last), leaves(last_row), strict=True):
            torch.testing.assert_close(found[row : row + 1], leaf, **EXACT)
        expected = expected + sum(tensor.double().sin().sum() for tensor in [y_row, *leaves(last_row)])
    parameters = list(stack.parameters())
    expected_gradients = torch.autograd.grad(expected, [alone, *parameters])
    loss = y.sin().sum() + sum(leaf.double().sin().sum() for leaf in leaves(last))
    torch.testing.assert_close(torch.autograd.grad(loss, [padded, *parameters]), expected_gradients)

    # without the states, of which `outputs` returns none
    expected_gradients = torch.autograd.grad(stack(padded, lengths=LENGTHS)[0].sin().sum(), [padded, *parameters])
    found_gradients = torch.autograd.grad(stack.outputs(padded, LENGTHS).sin().sum(), [padded, *parameters])
    torch.testing.assert_close(found_gradients, expected_gradients)


class TwoLayers(Cell):
    """A stack as a cell, for the conformance suite: chunks, steps, resets, copies, devices, finite differences."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.stack = Stack(partial(MomentumLSTM, momentum=0.5), input_size, hidden_size, 2, residual=True, norm="rms")

    def initial_state(self, batch_size):
        return self.stack.initial_state(batch_size)

    def step(self, x_BI, state):
        return self.stack.step(x_BI, state)

    def forward(self, x_BTI, state=None):
        return self.stack(x_BTI, state)


def test_stack_keeps_the_contract_of_a_cell():
    torch.set_default_dtype(torch.float32)
    check_cell(TwoLayers)


def test_reverse_direction_of_a_carried_state_starts_from_it():
    """As with torch.nn.LSTM, a state that is given starts both directions."""
    reference, stack = lstm_pair(num_layers=2, bidirectional=True)
    x = torch.randn(B, 2 * T, I)
    _, torchs_state = reference(x[:, :T])
    expected, _ = reference(x[:, T:], torchs_state)
    _, state = stack(x[:, :T])
    torch.testing.assert_close(stack(x[:, T:], state)[0], expected, **EXACT)
    reset = torch.tensor([True, False, True, False])
    found, _ = stack(x[:, T:], reset_rows(state, reset, stack.initial_state(B)))
    torch.testing.assert_close(found[reset], stack(x[reset, T:])[0], **EXACT)
    torch.testing.assert_close(found[~reset], expected[~reset], **EXACT)


def test_dropout_is_between_layers_and_in_training_only():
    stack = Stack(GRU, I, H, 2, dropout=0.5, norm="none")
    read = {}
    for number, cell in enumerate(stack.layers):
        cell.register_forward_pre_hook(lambda _, inputs, number=number: read.update({number: inputs[0]}))
    x = torch.randn(B, 100, I)
    y = stack(x)[0]
    first = stack.layers[0](x)[0]
    kept = read[1] != 0
    assert 0.4 < kept.double().mean() < 0.6
    torch.testing.assert_close(read[1][kept], 2 * first[kept])
    torch.testing.assert_close(y, stack.layers[1](read[1])[0])
    without = copy.deepcopy(stack)
    without.dropout.p = 0.0
    torch.testing.assert_close(stack.eval()(x)[0], without(x)[0])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda stack: pickle.loads(pickle.dumps(stack))])
def test_copies_are_independent(how):
    stack = Stack(MomentumLSTM, I, H, 2, norm="layer", bidirectional=True)
    x = torch.randn(B, T, I)
    expected, again = stack(x)[0], how(stack)
    torch.testing.assert_close(again(x)[0], expected, rtol=0, atol=0)
    for parameter in again.parameters():
        parameter.data.add_(1)
    torch.testing.assert_close(stack(x)[0], expected, rtol=0, atol=0)
    again.load_state_dict(stack.state_dict())
    torch.testing.assert_close(again(x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("bidirectional", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one", "both"])
def test_compiled_stack_is_the_same_function(bidirectional):
    stack = Stack(LSTM, I, H, 2, residual=True, norm="layer", bidirectional=bidirectional).eval()
    x = torch.randn(B, 2, I)
    torch.testing.assert_close(torch.compile(stack, backend="eager")(x)[0], stack(x)[0])


def build(**options):
    return Stack(LSTM, I, H, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(num_layers=0), "num_layers must be a positive integer, got 0"),
        (lambda: build(num_layers=2, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: build(dropout=0.2), "dropout must be 0 with one layer, because it is between layers, got 0.2"),
        (
            lambda: build(residual=True),
            "residual must be False with one layer of 4 output features, .* has 3",
        ),
        (lambda: build(norm="batch"), "norm must be one of 'none', 'layer', 'rms', got 'batch'"),
        (lambda: build()(torch.zeros(B, T)), r"must have shape \(batch, time, 3\)"),
        (
            lambda: build()(torch.zeros(B, T, I), lengths=torch.tensor([1, 2])),
            "lengths must be 4 integers, got",
        ),
        (lambda: build()(torch.zeros(B, T, I), lengths=torch.ones(B)), "lengths must be 4 integers, got"),
        (lambda: build()(torch.zeros(1, T, I), lengths=torch.tensor([0])), r"lengths must be in \[1, 7\], got 0 to 0"),
        (lambda: build()(torch.zeros(1, T, I), lengths=torch.tensor([8])), r"lengths must be in \[1, 7\], got 8 to 8"),
        (lambda: build(num_layers=2)(torch.zeros(B, T, I), build().initial_state(B)), "the state of Stack must be"),
        (
            lambda: build(bidirectional=True).step(torch.zeros(B, I), None),
            "bidirectional must be False for a step, got True",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
