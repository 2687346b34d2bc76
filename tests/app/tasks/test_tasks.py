"""The base class of tasks and the sequence classifier: steps, weights of metrics, checkpoints, schedules."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.trainers import QUIET
from pytorch_lightning import Callback, Trainer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from app.tasks import SequenceClassifier, Task
from app.tasks.base import StepOutput
from cells import LSTM, MomentumLSTM
from datamodules import Digits


def classifier(**options) -> SequenceClassifier:
    return SequenceClassifier(LSTM, input_size=2, num_classes=3, hidden_size=4, **options)


def test_logits_come_from_the_last_valid_step():
    task = classifier()
    inputs, lengths = torch.randn(3, 6, 2), torch.tensor([6, 1, 4])
    found = task(inputs, lengths)
    for row, length in enumerate(lengths):
        y_BTH, _ = task.cell(inputs[row : row + 1, :length])
        torch.testing.assert_close(found[row], task.head(y_BTH[0, -1]))


def test_padding_does_not_change_the_logits():
    task = classifier()
    inputs, lengths = torch.randn(3, 6, 2), torch.tensor([3, 1, 4])
    padded = inputs.clone()
    for row, length in enumerate(lengths):
        padded[row, length:] = 1e3
    assert torch.equal(task(inputs, lengths), task(padded, lengths))


def test_loss_and_accuracy_are_weighted_by_sequences():
    """With batches of unequal size, the metrics of the epoch are means over all sequences."""
    data = Digits(batch_size=70)  # 180 = 70 + 70 + 40
    data.setup()
    task = SequenceClassifier(LSTM, input_size=1, num_classes=10, hidden_size=8)
    trainer = Trainer(**QUIET)
    (found,) = trainer.validate(task, data, verbose=False)
    with torch.no_grad():
        logits = task(data.validation.tensors["inputs"])
    targets = data.validation.tensors["targets"]
    assert found["validation/loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-5)
    assert found["validation/accuracy"] == pytest.approx((logits.argmax(-1) == targets).float().mean().item(), abs=1e-6)


@pytest.mark.parametrize(
    "cell",
    [MomentumLSTM, partial(MomentumLSTM, momentum=0.3), lambda i, h: MomentumLSTM(i, h, momentum=0.3)],
    ids=["class", "partial", "lambda"],
)
def test_checkpoint_rebuilds_a_task_built_in_python(cell, tmp_path):
    task = SequenceClassifier(
        cell, input_size=1, num_classes=10, hidden_size=5, optimizer=partial(torch.optim.RMSprop, lr=3e-3, alpha=0.9)
    )
    trainer = Trainer(**QUIET, max_epochs=1, limit_train_batches=2, limit_val_batches=0)
    trainer.fit(task, Digits())
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    torch.load(tmp_path / "task.ckpt", weights_only=True)
    again = SequenceClassifier.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    inputs = torch.rand(2, 64, 1)
    torch.testing.assert_close(again.to("cpu")(inputs), task.to("cpu")(inputs), rtol=0, atol=0)
    assert again.cell.drive.momentum.value == task.cell.drive.momentum.value
    optimizer = again.make_optimizer(again.parameters())
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert (optimizer.defaults["lr"], optimizer.defaults["alpha"]) == (3e-3, 0.9)


def test_checkpoint_rebuilds_a_task_built_by_the_command_line(trained):
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    task = SequenceClassifier.load_from_checkpoint(trained / "checkpoints/best.ckpt")
    assert task.hparams["cell"] == checkpoint["hyper_parameters"]["cell"]
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor.cpu(), checkpoint["state_dict"][name])


def test_one_cycle_spans_the_whole_run():
    task = SequenceClassifier(
        LSTM,
        input_size=1,
        num_classes=10,
        hidden_size=4,
        optimizer=partial(torch.optim.Adam, lr=0.02),
        lr_schedule="one_cycle",
    )
    trainer = Trainer(**QUIET, max_epochs=3, limit_train_batches=5, limit_val_batches=0)
    trainer.fit(task, Digits())
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, OneCycleLR)
    assert scheduler.total_steps == 15
    assert scheduler.last_epoch == 15
    assert trainer.optimizers[0].param_groups[0]["max_lr"] == 0.02


class Mean(Task):
    """The least task: one weight, trained towards the mean of the inputs. Accepts the arguments of all tasks."""

    monitor, mode = "validation/loss", "min"

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def shared_step(self, batch, part) -> StepOutput:
        errors = (batch["inputs"] - self.weight).square()
        count = int(batch["count"].sum())
        metrics = {"root": (errors.mean().sqrt(), len(errors)), "nothing": (torch.tensor(torch.nan), 0)}
        return StepOutput(errors.mean(), errors, count, metrics, penalties=[self.weight, 2 * self.weight])


class Logged(Callback):
    """Records the training losses that the optimizer sees."""

    def on_train_start(self, trainer, task):
        self.losses = []

    def on_train_batch_end(self, trainer, task, outputs, *_):
        self.losses.append(outputs["loss"].item())


def test_one_method_makes_all_steps():
    """The loss and each metric are means by their own weights; penalties are trained on but not logged."""
    batches = [
        {"inputs": torch.tensor([[1.0], [3.0]]), "count": torch.tensor([1, 2])},
        {"inputs": torch.tensor([[5.0]]), "count": torch.tensor([7])},
    ]
    loader = DataLoader(batches, batch_size=None)
    task, logged = Mean(optimizer=partial(torch.optim.SGD, lr=0.0)), Logged()
    torch.nn.init.constant_(task.weight, 0.5)
    trainer = Trainer(**QUIET, callbacks=[logged], max_epochs=1)
    trainer.fit(task, loader, loader)
    first, second = (0.25 + 6.25) / 2, 20.25
    loss, root = (3 * first + 7 * second) / 10, (2 * first**0.5 + second**0.5) / 3
    for split in ("train", "validation"):
        assert trainer.callback_metrics[f"{split}/loss"].item() == pytest.approx(loss, rel=1e-6)
        assert trainer.callback_metrics[f"{split}/root"].item() == pytest.approx(root, rel=1e-6)
    assert logged.losses == pytest.approx([first + 1.5, second + 1.5])
    (found,) = trainer.test(task, loader, verbose=False)
    assert found["test/loss"] == pytest.approx(loss, rel=1e-6)
    assert task.probe_loss(batches[0]).item() == pytest.approx(first)


def test_task_without_shared_step_is_refused():
    with pytest.raises(NotImplementedError, match=r"Task must implement shared_step\(batch, part\)"):
        Task().training_step({}, 0)
