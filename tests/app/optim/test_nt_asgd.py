"""NT-ASGD: the average, when it begins, and where it is used."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import ASGD

from app.callbacks.averaging import AveragedWeights
from app.optim.nt_asgd import NTASGD
from app.optim.parameter_groups import JointOptimizer
from app.tasks import SequenceClassifier
from cells import RNN
from datamodules import Digits

LR = 2**-6  # torch keeps the learning rate in float32, where this one is exact


def quadratic(parameters) -> torch.Tensor:
    first, second = parameters
    return ((first - 1) ** 2).sum() + (second * first.sum()).square().sum()


def start() -> list[torch.nn.Parameter]:
    return [
        torch.nn.Parameter(torch.linspace(-1, 2, 5, dtype=torch.float64)),
        torch.nn.Parameter(torch.ones(2).double()),
    ]


def train(optimizer, parameters, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        quadratic(parameters).backward()
        optimizer.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_weights_and_average_are_those_of_torch(steps):
    ours, theirs = start(), start()
    optimizer = NTASGD(ours, lr=LR, weight_decay=0.1, nonmonotone=1)
    for loss in (1.0, 2.0, 3.0):
        optimizer.validated(loss)
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
        ([1, 2], None),  # too few before it
        ([1, 2, 3], None),
        ([1, 2, 3, 4], 3),  # worse than the best that is more than two validations old
        ([5, 1, 4, 3, 2], 4),
        ([5, 4, 4.5, 4.4, 3.9, 4.2, 4.1], 5),
    ],
)
def test_the_average_begins_where_validation_stopped_improving(losses, begins):
    optimizer = NTASGD(start(), nonmonotone=2)
    began = []
    for loss in losses:
        optimizer.validated(loss)
        began.append(optimizer.param_groups[0]["averaging"])
    assert (began.index(True) if any(began) else None) == begins


def test_without_a_trigger_it_is_sgd():
    ours, theirs = start(), start()
    optimizer = NTASGD(ours, lr=0.01, weight_decay=0.1)
    train(optimizer, ours, 5)
    train(torch.optim.SGD(theirs, lr=0.01, weight_decay=0.1), theirs, 5)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any("average" in state for state in optimizer.state.values())


def test_a_bad_argument_is_refused():
    with pytest.raises(ValueError, match="nonmonotone is 0; an integer of at least 1 is expected"):
        NTASGD(start(), nonmonotone=0)


def test_everything_is_saved_with_the_optimizer():
    undisturbed, parameters = start(), start()
    optimizer, first = NTASGD(undisturbed, lr=0.01, nonmonotone=1), NTASGD(parameters, lr=0.01, nonmonotone=1)
    for each, weights in ((optimizer, undisturbed), (first, parameters)):
        train(each, weights, 2)
        for loss in (1.0, 2.0, 3.0):
            each.validated(loss)
        train(each, weights, 3)
    again = NTASGD(parameters, lr=0.5)
    again.load_state_dict(first.state_dict())
    train(again, parameters, 4)
    train(optimizer, undisturbed, 4)
    for a, b in zip(undisturbed, parameters, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["average"], again.state[b]["average"])


def test_it_works_as_a_part_of_a_joint_optimizer():
    ours, theirs = start(), start()
    joint = JointOptimizer(others=NTASGD(ours[:1], lr=LR, nonmonotone=1), rest=torch.optim.SGD(ours[1:], lr=LR))
    for loss in (1.0, 2.0, 3.0):
        joint.parts[0].validated(loss)
    train(joint, ours, 4)
    expected = ASGD(theirs, lr=LR, t0=0, lambd=0)
    train(expected, theirs, 4)
    torch.testing.assert_close(joint.state[ours[0]]["average"], expected.state[theirs[0]]["ax"])


class Watch(Callback):
    """The weights in each training step and in each validation, the losses of both."""

    def __init__(self) -> None:
        self.steps, self.validated, self.losses = [], [], []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.steps.append(task.head.weight.detach().clone())
        self.losses.append(outputs["loss"].item())

    def on_validation_epoch_end(self, trainer, task):
        if not trainer.sanity_checking:
            self.validated.append(task.head.weight.detach().clone())


def fit(folder, max_epochs: int, checkpoint=None) -> tuple[Watch, SequenceClassifier]:
    """Epochs of two steps; the average begins after the third validation, whose losses are made up."""
    torch.manual_seed(0)
    task = SequenceClassifier(
        RNN, input_size=1, num_classes=10, hidden_size=4, optimizer=partial(NTASGD, lr=0.1, nonmonotone=1)
    )
    watch = Watch()
    trainer = Trainer(
        callbacks=[watch, ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1)],
        max_epochs=max_epochs,
        limit_train_batches=2,
        limit_val_batches=1,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    task.log_part = lambda part, weight, **_: (
        part == "train" or task.log("validation/loss", 1.0 + trainer.current_epoch)
    )
    trainer.fit(task, Digits(), ckpt_path=checkpoint, weights_only=True)
    return watch, task


def test_the_average_is_validated_and_saved_and_training_goes_on_from_the_last_weights(tmp_path):
    watch, task = fit(tmp_path, 5)
    average = torch.stack(watch.steps[7:8]).mean(0)  # epoch 4 of 5: steps 6 and 7; the first of them does not count
    torch.testing.assert_close(watch.validated[3], average)
    torch.testing.assert_close(watch.validated[4], torch.stack(watch.steps[7:10]).mean(0))
    for epoch in range(3):
        assert torch.equal(watch.validated[epoch], watch.steps[2 * epoch + 1])
    assert torch.equal(task.head.weight, watch.steps[-1])
    saved = torch.load(tmp_path / "epoch=4.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"]["head.weight"], watch.validated[4])
    again = SequenceClassifier.load_from_checkpoint(tmp_path / "epoch=4.ckpt")
    torch.testing.assert_close(again.head.weight, watch.validated[4])


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_resumed_run_goes_on_exactly(epoch, tmp_path):
    undisturbed, _ = fit(tmp_path / "whole", 5)
    resumed, _ = fit(tmp_path / "again", 5, tmp_path / "whole" / f"epoch={epoch}.ckpt")
    steps = 2 * (epoch + 1)
    assert resumed.losses == undisturbed.losses[steps:]
    for found, expected in zip(resumed.steps, undisturbed.steps[steps:], strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(resumed.validated[-1], undisturbed.validated[-1])


def test_it_comes_with_the_task():
    task = SequenceClassifier(RNN, input_size=1, num_classes=2)
    assert [type(callback) for callback in task.configure_callbacks()] == [AveragedWeights]
