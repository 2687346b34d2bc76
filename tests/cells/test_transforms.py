"""torch.compile, torch.export, torch.func and second derivatives of every built-in cell.

The oracle is autograd on the step loop, in float64. None of these transforms may raise an error for a cell with the
default engine, except second derivatives by autograd, which only the step loop has for many cells.
"""

from functools import partial

import pytest
import torch
from helpers.cell_builders import BUILT_IN

from cells.check_tools import assert_same, cell_input_state, values_and_gradients
from cells.state import detach, leaves

FEW = ("AdamGRU", "FilteredLSTM", "LMU", "LSTM", "MomentumDTRIV", "NesterovRNN")  # one of each kind
STEPS = 3
EVERY = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in BUILT_IN]


def small(name, **arguments):
    torch.manual_seed(0)
    cell, x_BTI, state = cell_input_state(partial(BUILT_IN[name], **arguments))
    return cell, x_BTI[:, :STEPS], state


def loss_of(forward, state):
    """Return a function of the input that depends on all outputs and on the last state."""

    def loss(x_BTI):
        return torch.stack(
            [leaf.sin().sum() for leaf in leaves(forward(x_BTI, state)) if leaf.is_floating_point()]
        ).sum()

    return loss


def assert_compiles(name, backend):
    cell, x_BTI, state = small(name)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(cell, backend=backend, fullgraph=True)
    found = values_and_gradients(cell, compiled, x_BTI, state)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert_same("compiled and step loop", found, values_and_gradients(cell, cell.loop, x_BTI, state))


@pytest.mark.parametrize("name", EVERY)
def test_compiled_forward_and_backward(name):
    assert_compiles(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BUILT_IN)
def test_forward_and_backward_compiled_by_inductor(name):
    assert_compiles(name, "inductor")


@pytest.mark.parametrize("name", EVERY)
def test_exported_program(name):
    cell, x_BTI, state = small(name)
    state = detach(state)
    program = torch.export.export(cell, (x_BTI, state))
    assert_same("exported and step loop", program.module()(x_BTI, state), cell.loop(x_BTI, state))


@pytest.mark.parametrize("name", EVERY)
def test_hessian_of_the_reference_equals_finite_differences_of_gradients(name):
    """Along a random direction, by autograd with create_graph and by forward mode over reverse mode."""
    cell, x_BTI, state = small(name)
    for inner in cell.modules():
        inner.engine = "reference"
    loss, direction_BTI, small_step = loss_of(cell, detach(state)), torch.randn_like(x_BTI), 1e-5
    gradient = torch.func.grad(loss)
    expected = (gradient(x_BTI + small_step * direction_BTI) - gradient(x_BTI - small_step * direction_BTI)) / (
        2 * small_step
    )
    _, product_BTI = torch.autograd.functional.hvp(loss, x_BTI, direction_BTI)
    _, by_jvp_BTI = torch.func.jvp(gradient, (x_BTI,), (direction_BTI,))
    torch.testing.assert_close(product_BTI, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert_same("Hessian-vector products by autograd and by torch.func", product_BTI, by_jvp_BTI)


@pytest.mark.parametrize("name", EVERY)
def test_second_derivatives_are_right_or_name_the_engine_that_has_them(name):
    """Also where the first gradient is a constant, so that autograd has no graph to report the missing one."""
    cell, x_BTI, state = small(name)
    state = detach(state)
    expected = torch.autograd.functional.hvp(loss_of(cell.loop, state), x_BTI, torch.ones_like(x_BTI))[1]
    said = ""
    try:
        found = torch.autograd.functional.hvp(loss_of(cell, state), x_BTI, torch.ones_like(x_BTI))[1]
        x_BTI = x_BTI.clone().requires_grad_()
        torch.autograd.grad(cell(x_BTI, state)[0].sum(), x_BTI, create_graph=True)
    except RuntimeError as error:
        said = str(error)
    if said:
        assert "has no second derivatives" in said
        assert "engine='reference'" in said
    else:
        assert_same("second derivatives of forward and of the step loop", found, expected)


@pytest.mark.parametrize("name", EVERY)
def test_function_transforms(name):
    cell, x_BTI, state = small(name)
    state = detach(state)
    loss, expected_loss = loss_of(cell, state), loss_of(cell.loop, state)
    direction_BTI = torch.randn_like(x_BTI)
    for transform in (
        lambda loss: torch.vmap(loss)(torch.stack([x_BTI, direction_BTI])),
        lambda loss: torch.func.jvp(loss, (x_BTI,), (direction_BTI,)),
        lambda loss: torch.func.jacrev(loss)(x_BTI),
        lambda loss: torch.func.jvp(torch.func.grad(loss), (x_BTI,), (direction_BTI,)),
    ):
        assert_same("forward and step loop", transform(loss), transform(expected_loss))
    parameters = dict(cell.named_parameters())
    stacked = {name: torch.stack([parameter, parameter + 0.01]).detach() for name, parameter in parameters.items()}

    def of_weights(weights):
        return torch.func.functional_call(cell, weights, (x_BTI, state))[0]

    for member, y_BTH in enumerate(torch.vmap(of_weights)(stacked)):  # an ensemble of two cells
        assert_same("ensemble", y_BTH, of_weights({name: tensor[member] for name, tensor in stacked.items()}))
