"""NT-ASGD: the average, its trigger, and the lag of the learning rate."""

from __future__ import annotations

import pytest
import torch
from torch.optim import ASGD

from app.optim.nt_asgd import NTASGD
from app.optim.parameter_groups import JointOptimizer

LR = 2**-6  # exact in float32, in which torch.optim.ASGD keeps the learning rate


def quadratic(parameters) -> torch.Tensor:
    first, second = parameters
    return ((first - 1) ** 2).sum() + (second * first.sum()).square().sum()


def start() -> list[torch.nn.Parameter]:
    return [
        torch.nn.Parameter(torch.linspace(-1, 2, 5, dtype=torch.float64)),
        torch.nn.Parameter(torch.ones(2).double()),
    ]


def train(optimizer, parameters, steps: int, factors=(1.0,)) -> None:
    """Take steps at the learning rate of the optimizer times each of ``factors`` in turn."""
    (rate,) = {group["lr"] for group in optimizer.param_groups}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * factors[step % len(factors)]
        optimizer.zero_grad()
        quadratic(parameters).backward()
        optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = rate


def triggered(parameters, **options) -> NTASGD:
    """Return an optimizer that has started averaging."""
    optimizer = NTASGD(parameters, **{"lr": LR, "nonmonotone": 1, **options})
    for loss in (1.0, 2.0, 3.0):
        optimizer.validated(loss)
    return optimizer


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_lagged_learning_rate_equals_torch_asgd(steps):
    """torch.optim.ASGD sets the rate of a step at the end of the step before it."""
    factors = (1.0, 0.5, 2.0, 0.25)  # as windows of different lengths do
    ours, theirs, unlagged = start(), start(), start()
    optimizer = triggered(ours, weight_decay=0.1, lagged_lr=True)
    train(optimizer, ours, steps, factors)
    expected = ASGD(theirs, lr=LR, weight_decay=0.1, t0=0, lambd=0)
    train(expected, theirs, steps, factors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(optimizer.state[a]["average"], expected.state[b]["ax"], rtol=1e-7, atol=1e-7)
    train(triggered(unlagged, weight_decay=0.1), unlagged, steps, factors)
    assert torch.allclose(unlagged[0], theirs[0], rtol=1e-6) == (steps == 1)


def test_before_averaging_no_learning_rate_lags():
    ours, theirs = start(), start()
    train(NTASGD(ours, lr=LR, lagged_lr=True), ours, 6, (1.0, 0.5, 2.0))
    train(torch.optim.SGD(theirs, lr=LR), theirs, 6, (1.0, 0.5, 2.0))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_weights_and_average_equal_torch_asgd(steps):
    ours, theirs = start(), start()
    optimizer = triggered(ours, weight_decay=0.1)
    train(optimizer, ours, steps)
    expected = ASGD(theirs, lr=LR, weight_decay=0.1, t0=0, lambd=0)
    train(expected, theirs, steps)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(optimizer.state[a]["average"], expected.state[b]["ax"], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("losses", "begins"),
    [
        ([5, 4, 3, 2, 1], None),
        ([1, 2], None),  # too few validations
        ([1, 2, 3], None),
        ([1, 2, 3, 4], 3),  # worse than the best loss of all but the last two validations
        ([5, 1, 4, 3, 2], 4),
        ([5, 4, 4.5, 4.4, 3.9, 4.2, 4.1], 5),
    ],
)
def test_averaging_starts_when_validation_stops_improving(losses, begins):
    optimizer = NTASGD(start(), nonmonotone=2)
    began = []
    for loss in losses:
        optimizer.validated(loss)
        began.append(optimizer.param_groups[0]["averaging"])
    assert (began.index(True) if any(began) else None) == begins


def test_untriggered_optimizer_is_sgd():
    ours, theirs = start(), start()
    optimizer = NTASGD(ours, lr=0.01, weight_decay=0.1)
    train(optimizer, ours, 5)
    train(torch.optim.SGD(theirs, lr=0.01, weight_decay=0.1), theirs, 5)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any("average" in state for state in optimizer.state.values())


def test_nonmonotone_must_be_positive():
    with pytest.raises(ValueError, match="nonmonotone must be a positive integer, got 0"):
        NTASGD(start(), nonmonotone=0)


@pytest.mark.parametrize("lagged_lr", [False, True])
def test_state_dict_restores_the_optimizer(lagged_lr):
    factors = (1.0, 0.5, 2.0)
    options = {"lr": 0.01, "nonmonotone": 1, "lagged_lr": lagged_lr}
    uninterrupted, parameters = start(), start()
    optimizer, first = NTASGD(uninterrupted, **options), NTASGD(parameters, **options)
    for each, weights in ((optimizer, uninterrupted), (first, parameters)):
        train(each, weights, 2)
        for loss in (1.0, 2.0, 3.0):
            each.validated(loss)
        train(each, weights, 3, factors)
    again = NTASGD(parameters, lr=0.5)
    again.load_state_dict(first.state_dict())
    train(again, parameters, 4, factors)
    train(optimizer, uninterrupted, 4, factors)
    for a, b in zip(uninterrupted, parameters, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["average"], again.state[b]["average"])


def test_optimizer_works_inside_a_joint_optimizer():
    ours, theirs = start(), start()
    joint = JointOptimizer(others=NTASGD(ours[:1], lr=LR, nonmonotone=1), rest=torch.optim.SGD(ours[1:], lr=LR))
    for loss in (1.0, 2.0, 3.0):
        joint.parts[0].validated(loss)
    train(joint, ours, 4)
    expected = ASGD(theirs, lr=LR, t0=0, lambd=0)
    train(expected, theirs, 4)
    torch.testing.assert_close(joint.state[ours[0]]["average"], expected.state[theirs[0]]["ax"])
