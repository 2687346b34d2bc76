"""The conformance suite for every cell, including those of third parties.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from cells.cell import Cell
from cells.check_tools import (
    B,
    Factory,
    H,
    I,
    T,
    assert_same,
    cell_input_state,
    random_state,
    rows_of,
    unflatten,
    values_and_gradients,
)
from cells.state import leaves, move, reset_rows
from cells.transform_checks import check_compiled, check_function_transforms, check_second_derivatives


def check_cell(factory: Factory, *, compile_backend: str | None = None) -> None:
    """Check that ``factory(input_size, hidden_size)`` builds a cell that fulfills the contract of :class:`cells.Cell`.

    Args:
        factory: The class of the cell, or a ``functools.partial`` of it.
        compile_backend: Backend of ``torch.compile``, such as ``aot_eager`` or ``inductor``, that must give the outputs
            and gradients of the cell. None: not checked, because compiling takes seconds to a minute.

    Example:
        >>> from functools import partial
        >>> from cells import MomentumLSTM, check_cell
        >>> check_cell(partial(MomentumLSTM, momentum=0.9, step_size=0.1))

    Raises:
        AssertionError: at the first broken rule, with the name of the cell, the rule and the finding.
    """
    with torch.random.fork_rng():
        for check in CHECKS:
            _run_check(check, factory)
        if compile_backend is not None:
            _run_check(check_compiled, factory, compile_backend)


def _run_check(check: Callable[..., None], factory: Factory, *arguments: str) -> None:
    torch.manual_seed(0)
    try:
        check(factory, *arguments)
    except Exception as error:
        rule = (check.__doc__ or "").rstrip(".")
        found = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
        raise AssertionError(f"{_name(factory)} breaks the rule '{rule}' ({check.__name__}): {found}") from error


def check_construction(factory: Factory) -> None:
    """factory(input_size, hidden_size) returns a Cell with these sizes, plain own arguments, and valid roles."""
    cell = factory(I, H)
    assert isinstance(cell, Cell), f"the factory must return a cells.Cell, got a {type(cell).__name__}"
    sizes = cell.input_size, cell.hidden_size
    assert sizes == (I, H), f"(input_size, hidden_size) must be {(I, H)}, got {sizes}"
    assert _is_plain(cell.init_args), f"own arguments must be plain data, got {cell.init_args}"
    unknown = set(cell.roles) - {name for name, _ in cell.named_parameters()}
    assert not unknown, f"roles must name parameters, got {', '.join(sorted(unknown))}"
    again = type(cell)(I, H, **cell.init_args)
    expected, found = _shapes(cell), _shapes(again)
    assert found == expected, f"a cell built from init_args must have the parameters {expected}, got {found}"


def check_shapes(factory: Factory) -> None:
    """Outputs are (B, T, hidden_size), and every leaf of a state has the batch first, for any B and T."""
    cell, x_BTI, state = cell_input_state(factory)
    for rows, steps in ((B, T), (1, 1), (5, 2)):
        y_BTH, last = cell(torch.randn(rows, steps, I, dtype=torch.float64))
        assert y_BTH.shape == (rows, steps, H), f"outputs must have shape {(rows, steps, H)}, got {tuple(y_BTH.shape)}"
        for leaf in [*leaves(cell.initial_state(rows)), *leaves(last)]:
            assert leaf.shape[:1] == (rows,), f"a state leaf for {rows} rows has shape {tuple(leaf.shape)}"
    y_BH, following = cell.step(x_BTI[:, 0], state)
    assert y_BH.shape == (B, H), f"the output of a step must have shape {(B, H)}, got {tuple(y_BH.shape)}"
    expected, found = ([tuple(leaf.shape) for leaf in leaves(tree)] for tree in (state, following))
    assert found == expected, f"a step must keep the shapes {expected} of the state, got {found}"


def check_bad_input(factory: Factory) -> None:
    """An input with no steps, of another width or of another rank raises a ValueError."""
    cell = factory(I, H)
    for shape in ((B, 0, I), (B, T, I + 1), (B, I)):
        try:
            cell(torch.zeros(shape))
        except ValueError:
            continue
        raise AssertionError(f"an input of shape {shape} was accepted")


def check_bad_state(factory: Factory) -> None:
    """A state of another number of rows or units raises a ValueError; Cell.start_state checks it for every forward."""
    cell, x_BTI, state = cell_input_state(factory)
    other = factory(I, 2 * H).double().initial_state(B)
    for what, wrong in ((f"one row, for {B} rows", rows_of(state, 0)), (f"a cell with {2 * H} units", other)):
        if [leaf.shape for leaf in leaves(wrong)] == [leaf.shape for leaf in leaves(state)]:
            continue  # the state does not depend on hidden_size
        try:
            cell(x_BTI, wrong)
        except ValueError:
            continue
        raise AssertionError(f"a state of {what} was accepted")


def check_step_equals_forward(factory: Factory) -> None:
    """forward gives the outputs, the last state and the gradients of the step loop."""
    cell, x_BTI, state = cell_input_state(factory)
    assert_same(
        "forward and the step loop",
        values_and_gradients(cell, cell, x_BTI, state),
        values_and_gradients(cell, cell.loop, x_BTI, state),
    )


def check_default_state(factory: Factory) -> None:
    """The default state is initial_state."""
    cell, x_BTI, _ = cell_input_state(factory)
    assert_same("no state and initial_state", cell(x_BTI), cell(x_BTI, cell.initial_state(B)))


def check_cut(factory: Factory) -> None:
    """A sequence cut anywhere, with its state passed on, equals the whole sequence."""
    cell, x_BTI, state = cell_input_state(factory)
    whole = cell(x_BTI, state)
    for cut in range(1, T):
        first, middle = cell(x_BTI[:, :cut], state)
        second, last = cell(x_BTI[:, cut:], middle)
        assert_same(f"a sequence cut after step {cut} and the whole", (torch.cat([first, second], 1), last), whole)


def check_rows_independent(factory: Factory) -> None:
    """The rows of a batch are independent."""
    cell, x_BTI, state = cell_input_state(factory)
    y_BTH, last = cell(x_BTI, state)
    for row in range(B):
        alone = cell(x_BTI[row : row + 1], rows_of(state, row))
        assert_same(f"row {row} alone and in the batch", alone, (y_BTH[row : row + 1], rows_of(last, row)))


def check_causality(factory: Factory) -> None:
    """An input does not change earlier outputs."""
    cell, x_BTI, state = cell_input_state(factory)
    before, _ = cell(x_BTI, state)
    for t in range(1, T):
        changed = x_BTI.clone()
        changed[:, t:] += 1
        assert_same(f"outputs before step {t} after a change from there", cell(changed, state)[0][:, :t], before[:, :t])


def check_gradients(factory: Factory) -> None:
    """Gradients in input, parameters and initial state equal finite differences along random directions (float64)."""
    cell = factory(2, 4).double().eval()  # few units, and an even number, which cells with pairs of units require
    x_BTI = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    state = random_state(cell, 2)
    names, parameters = zip(*cell.named_parameters(), strict=True) if list(cell.parameters()) else ((), ())
    real_leaves = [leaf for leaf in leaves(state) if leaf.is_floating_point()]

    def run(x_BTI: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        real = iter(tensors)
        initial = [next(real) if leaf.is_floating_point() else leaf for leaf in leaves(state)]
        weights = dict(zip(names, real, strict=True))
        y_BTH, last = torch.func.functional_call(cell, weights, (x_BTI, unflatten(initial, state)))
        return y_BTH, *(leaf for leaf in leaves(last) if leaf.is_floating_point())

    torch.autograd.gradcheck(run, (x_BTI, *real_leaves, *parameters), fast_mode=True)  # cells may be large


def check_every_parameter_learns(factory: Factory) -> None:
    """Every parameter that requires a gradient gets one."""
    cell, x_BTI, state = cell_input_state(factory)
    y_BTH, _ = cell(x_BTI, state)
    y_BTH.sin().sum().backward()
    idle = [name for name, p in cell.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not idle, f"no gradient reaches {', '.join(idle)}"


def check_reset_rows(factory: Factory) -> None:
    """Rows with a reset state continue as from the start, the others as without the reset."""
    cell, x_BTI, state = cell_input_state(factory)
    reset_B = torch.tensor([False, True, False])
    y_BTH, _ = cell(x_BTI, reset_rows(state, reset_B, cell.initial_state(B)))
    fresh, _ = cell(x_BTI)
    kept, _ = cell(x_BTI, state)
    assert_same("rows after a reset of row 1", y_BTH, torch.where(reset_B[:, None, None], fresh, kept))


def check_eval(factory: Factory) -> None:
    """In eval mode two runs are equal and gradients flow, and the cell runs again in train mode."""
    cell, x_BTI, state = cell_input_state(factory)
    assert_same(
        "two runs in eval mode",
        values_and_gradients(cell, cell, x_BTI, state),
        values_and_gradients(cell, cell, x_BTI, state),
    )
    with torch.no_grad():
        assert_same("eval with and without gradients", cell(x_BTI, state), cell(x_BTI, state))
    cell.train()
    cell(x_BTI, state)[0].sum().backward()


def check_state_dict(factory: Factory) -> None:
    """A second cell with the state dict of the first is the same function."""
    cell, x_BTI, state = cell_input_state(factory)
    torch.manual_seed(1)
    other = factory(I, H).double().eval()
    other.load_state_dict(cell.state_dict())
    assert_same("a cell and one with its state dict", other(x_BTI, state), cell(x_BTI, state))


def check_copies(factory: Factory) -> None:
    """deepcopy and pickle return equal, independent cells with the same own arguments."""
    cell, x_BTI, state = cell_input_state(factory)
    expected = cell(x_BTI, state)
    for how, other in (("deepcopy", copy.deepcopy(cell)), ("pickle", pickle.loads(pickle.dumps(cell)))):
        assert_same(f"a cell and its {how}", other(x_BTI, state), expected)
        assert other.init_args == cell.init_args, f"{how} must keep init_args {cell.init_args}, got {other.init_args}"
        for parameter in other.parameters():
            parameter.data.add_(1)
        assert_same(f"a cell before and after a change of its {how}", cell(x_BTI, state), expected)


def check_dtypes(factory: Factory) -> None:
    """Outputs and states have the dtype of the parameters, float32 or float64."""
    for dtype in (torch.float32, torch.float64):
        cell = factory(I, H).to(dtype)
        for leaf in leaves(cell.initial_state(B)):
            assert not leaf.is_floating_point() or leaf.dtype == dtype, (
                f"the initial state of a cell of {dtype} must have this dtype, got {leaf.dtype}"
            )
        y_BTH, last = cell(torch.randn(B, T, I, dtype=dtype))
        found = {leaf.dtype for leaf in [y_BTH, *leaves(last)] if leaf.is_floating_point()}
        assert found == {dtype}, f"outputs and states must have {dtype}, got {sorted(map(str, found))}"


def check_autocast(factory: Factory) -> None:
    """Under bf16 autocast outputs and gradients are finite and within 0.05 of float32."""
    cell = factory(I, H).eval()
    x_BTI = torch.randn(B, T, I)
    state = cell.initial_state(B)
    exact = values_and_gradients(cell, cell, x_BTI, state)
    with torch.autocast("cpu", torch.bfloat16):
        low = values_and_gradients(cell, cell, x_BTI, state)
    for a, b in zip(leaves(low), leaves(exact), strict=True):
        assert a.isfinite().all(), "values under bf16 autocast must be finite"
        error = ((a.float() - b).abs().max() / b.abs().max().clamp(min=1)).item()
        assert error < 0.05, f"bf16 autocast must differ from float32 by less than 0.05, got {error:.3f}"


def check_device_move(factory: Factory) -> None:
    """After a move to another device, states and outputs are on that device."""
    cell = factory(I, H).to("meta")
    found = {str(leaf.device) for leaf in leaves(cell.initial_state(B))}
    assert found <= {"meta"}, f"the states of a cell on 'meta' must be there, got {', '.join(sorted(found))}"
    if torch.cuda.is_available():
        cell, x_BTI, state = cell_input_state(factory)
        expected = cell(x_BTI, state)
        y_BTH, last = cell.cuda()(x_BTI.cuda(), move(state, "cuda"))
        assert_same("a cell on cuda and on cpu", (y_BTH.cpu(), move(last, "cpu")), expected)


CHECKS: tuple[Callable[[Factory], None], ...] = (
    check_construction,
    check_dtypes,  # before the checks in float64, which would report a fixed dtype less clearly
    check_shapes,
    check_bad_input,
    check_bad_state,
    check_step_equals_forward,
    check_default_state,
    check_cut,
    check_rows_independent,
    check_causality,
    check_gradients,
    check_second_derivatives,
    check_function_transforms,
    check_every_parameter_learns,
    check_reset_rows,
    check_eval,
    check_state_dict,
    check_copies,
    check_autocast,
    check_device_move,
)


def _shapes(cell: Cell) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in cell.named_parameters()}


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _name(factory: Factory) -> str:
    """Return the class and the own arguments of the cell, as far as they are known without building it."""
    function = getattr(factory, "func", factory)
    arguments = ", ".join(f"{name}={value!r}" for name, value in getattr(factory, "keywords", {}).items())
    return getattr(function, "__name__", repr(function)) + (f"({arguments})" if arguments else "")
