"""check_cell: every built-in cell passes, and each broken cell fails the check of its fault."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.cell_builders import BUILT_IN, few, slow

import cells
from cells import checks
from cells.checks import check_cell


@pytest.mark.parametrize("name", few(BUILT_IN))
def test_every_built_in_cell_fulfills_the_contract(name):
    check_cell(BUILT_IN[name])


@pytest.mark.parametrize("engine", ["reference", "library"])
@pytest.mark.parametrize("name", ["MomentumLSTM", slow("SRGRU"), slow("LSTM")])
def test_every_engine_fulfills_the_contract(name, engine):
    check_cell(partial(BUILT_IN[name], engine=engine))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        slow("MomentumGRU", {"learn": "unit"}),
        ("MomentumLSTM", {"learn": "scalar", "bias": False}),
        ("AdamRNN", {"learn": "scalar", "delta_in_root": False}),
        slow("SRDTRIV", {"learn": "unit", "restart_period": 3}),
        slow("RMSPropLSTM", {"bias": False, "learn": "unit", "init": "published"}),
        ("NesterovGRU", {"sign": -1, "restart_period": 2, "bias": False}),
    ],
)
def test_options_fulfill_the_contract(name, arguments):
    check_cell(partial(BUILT_IN[name], **arguments))


class Leaky(cells.Cell):
    """h_t = tanh(d h_{t-1} + W x_t), written as by a third party, on the base class alone."""

    def __init__(self, input_size, hidden_size, *, decay=0.5):
        super().__init__(input_size, hidden_size)
        self.weight = torch.nn.Parameter(torch.randn(hidden_size, input_size) / 2)
        self.decay = torch.nn.Parameter(torch.full((hidden_size,), decay))

    def initial_state(self, batch_size):
        return {"h": self.weight.new_zeros(batch_size, self.hidden_size)}

    def step(self, x_BI, state):
        h_BH = torch.tanh(self.decay * state["h"] + F.linear(x_BI, self.weight))
        return h_BH, {"h": h_BH}


class WrongSize(Leaky):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.hidden_size += 1


class NotPlain(Leaky):
    def __new__(cls, *args, **kwargs):
        return super().__new__(cls, *args, activation=torch.tanh, **kwargs)


class RoleOfNothing(Leaky):
    roles = {"wieght": "orthogonal"}  # noqa: RUF012


class TimeFirst(Leaky):
    def forward(self, x_BTI, state=None):
        y_BTH, state = super().forward(x_BTI, state)
        return y_BTH.transpose(0, 1), state


class StateNotBatchFirst(Leaky):
    def initial_state(self, batch_size):
        return {"h": self.weight.new_zeros(1, batch_size, self.hidden_size)}

    def step(self, x_BI, state):
        y_BH, state = super().step(x_BI, {"h": state["h"][0]})
        return y_BH, {"h": state["h"][None]}


class AnyInput(Leaky):
    def forward(self, x_BTI, state=None):
        return self.loop(x_BTI[..., : self.input_size], state or self.initial_state(len(x_BTI)))


class AnyState(Leaky):
    def forward(self, x_BTI, state=None):
        self.check_input(x_BTI)
        return self.loop(x_BTI, state or self.initial_state(len(x_BTI)))


class ForwardIsNotStep(Leaky):
    def forward(self, x_BTI, state=None):
        y_BTH, state = super().forward(x_BTI, state)
        return 1.001 * y_BTH, state


class GradientsOfForwardAreNotThoseOfStep(Leaky):
    def forward(self, x_BTI, state=None):
        return super().forward(x_BTI.detach() if x_BTI.requires_grad else x_BTI, state)


class OtherDefaultState(Leaky):
    def forward(self, x_BTI, state=None):
        return super().forward(x_BTI, {"h": x_BTI.new_ones(len(x_BTI), self.hidden_size)} if state is None else state)


class ForgetsTheState(Leaky):
    def loop(self, x_BTI, state, step=None):
        return super().loop(x_BTI, self.initial_state(len(x_BTI)), step)


class RowsMixed(Leaky):
    def step(self, x_BI, state):
        return super().step(x_BI - x_BI.mean(0), state)


class SeesTheFuture(Leaky):
    def loop(self, x_BTI, state, step=None):
        return super().loop(x_BTI + x_BTI[:, -1:], state, step)


class WrongGradient(Leaky):
    def step(self, x_BI, state):
        y_BH, state = super().step(x_BI, state)
        return y_BH + (y_BH - y_BH.detach()), state


class _Constant(torch.autograd.Function):
    """The identity, whose backward pass forgets that its gradient has a graph."""

    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy.detach()


class WrongSecondDerivative(Leaky):
    def forward(self, x_BTI, state=None):
        y_BTH, state = self.loop(x_BTI, self.start_state(x_BTI, state))
        return _Constant.apply(y_BTH), state


class WrongTangent(Leaky):
    """Right in value and gradient, but another function under torch.func."""

    def loop(self, x_BTI, state, step=None):
        followed = torch._C._functorch.peek_interpreter_stack() is not None
        return super().loop(2 * x_BTI if followed else x_BTI, state, step)

    def forward(self, x_BTI, state=None):
        return super().loop(x_BTI, self.start_state(x_BTI, state))


class WrongCompiled(Leaky):
    def forward(self, x_BTI, state=None):
        y_BTH, state = super().forward(x_BTI, state)
        return (1.001 * y_BTH if torch.compiler.is_compiling() else y_BTH), state


class IdleParameter(Leaky):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.idle = torch.nn.Parameter(torch.ones(3))


class NoiseInEval(Leaky):
    def step(self, x_BI, state):
        return super().step(x_BI + 1e-3 * torch.randn_like(x_BI), state)


class RemembersByItself(Leaky):
    seen = 0

    def step(self, x_BI, state):
        self.seen += 1
        return super().step(x_BI * (1 + 1e-3 * self.seen), state)


class LosesABuffer(Leaky):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.register_buffer("mix", torch.randn(input_size, input_size), persistent=False)

    def step(self, x_BI, state):
        return super().step(x_BI @ self.mix, state)


class NotPickled(Leaky):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.activation = lambda x: x


class CopyIsShared(Leaky):
    def __deepcopy__(self, memo):
        other = copy.copy(self)
        memo[id(self)] = other
        return other


class FixedDtype(Leaky):
    def initial_state(self, batch_size):
        return {"h": torch.zeros(batch_size, self.hidden_size, device=self.weight.device)}


class FixedDevice(Leaky):
    def initial_state(self, batch_size):
        return {"h": torch.zeros(batch_size, self.hidden_size, dtype=self.weight.dtype)}


class LowPrecision(Leaky):
    def step(self, x_BI, state):
        return super().step((300 * F.linear(x_BI, self.weight)).sin()[:, : self.input_size], state)


def test_a_cell_of_a_third_party_keeps_the_contract():
    check_cell(Leaky)
    check_cell(partial(Leaky, decay=0.9))


@pytest.mark.parametrize(
    ("build", "check", "found"),
    [
        (WrongSize, checks.check_construction, r"must be \(4, 6\), got \(4, 7\)"),
        (NotPlain, checks.check_construction, "own arguments must be plain data"),
        (RoleOfNothing, checks.check_construction, "roles must name parameters, got wieght"),
        (TimeFirst, checks.check_shapes, r"outputs must have shape \(3, 7, 6\), got \(7, 3, 6\)"),
        (StateNotBatchFirst, checks.check_shapes, r"a state leaf for 3 rows has shape \(1, 3, 6\)"),
        (AnyInput, checks.check_bad_input, r"an input of shape \(3, 7, 5\) was accepted|RuntimeError"),
        (AnyState, checks.check_bad_state, "a state of one row, for 3 rows was accepted"),
        (ForwardIsNotStep, checks.check_step_equals_forward, "forward and the step loop differ by"),
        (GradientsOfForwardAreNotThoseOfStep, checks.check_step_equals_forward, "forward and the step loop differ by"),
        (OtherDefaultState, checks.check_default_state, "no state and initial_state differ by"),
        (OtherDefaultState, checks.check_reset_rows, "rows after a reset of row 1 differ by"),
        (ForgetsTheState, checks.check_cut, "a sequence cut after step 1 and the whole differ by"),
        (RowsMixed, checks.check_rows_independent, "row 0 alone and in the batch differ by"),
        (SeesTheFuture, checks.check_causality, "outputs before step 1 after a change from there differ by"),
        (WrongGradient, checks.check_gradients, "Jacobian mismatch"),
        (WrongSecondDerivative, checks.check_second_derivatives, "second derivatives of forward and of the step loop"),
        (WrongTangent, checks.check_function_transforms, "vmap of forward and of the step loop differ by"),
        (IdleParameter, checks.check_every_parameter_learns, "no gradient reaches idle"),
        (NoiseInEval, checks.check_eval, "two runs in eval mode differ by"),
        (RemembersByItself, checks.check_eval, "two runs in eval mode differ by"),
        (LosesABuffer, checks.check_state_dict, "a cell and one with its state dict differ by"),
        (NotPickled, checks.check_copies, "local object"),
        (CopyIsShared, checks.check_copies, "a cell before and after a change of its deepcopy differ by"),
        (FixedDtype, checks.check_dtypes, "of a cell of torch.float64 must have this dtype, got torch.float32"),
        (FixedDevice, checks.check_device_move, "the states of a cell on 'meta' must be there, got cpu"),
        (LowPrecision, checks.check_autocast, "bf16 autocast must differ from float32 by less than 0.05"),
    ],
)
def test_broken_cell_fails_the_check_of_its_fault(build, check, found, monkeypatch):
    with pytest.raises(AssertionError, match=f"^{build.__name__} breaks the rule"):
        check_cell(build)
    assert check in checks.CHECKS
    monkeypatch.setattr(checks, "CHECKS", (check,))
    with pytest.raises(AssertionError, match=f"(?s)^{build.__name__} breaks the rule.*{check.__name__}.*({found})"):
        check_cell(build)


def test_a_wrong_compiled_cell_fails_the_check_with_a_backend():
    check_cell(WrongCompiled)
    check_cell(Leaky, compile_backend="eager")
    with pytest.raises(AssertionError, match="a cell compiled by eager and the step loop differ by"):
        check_cell(WrongCompiled, compile_backend="eager")


def test_every_check_has_a_broken_cell():
    """Otherwise a check might check nothing."""
    tested = {case[1] for case in test_broken_cell_fails_the_check_of_its_fault.pytestmark[0].args[1]}
    assert tested == set(checks.CHECKS)


def test_check_cell_keeps_the_random_state():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_cell(Leaky)
    assert torch.equal(torch.rand(2), expected)
