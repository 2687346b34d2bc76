"""Tasks: what they compute, and that a checkpoint rebuilds them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch.optim.lr_scheduler import OneCycleLR

from app.tasks import SequenceClassifier
from cells import LSTM, MomentumLSTM
from datamodules import Digits

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def classifier(**options) -> SequenceClassifier:
    return SequenceClassifier(LSTM, input_size=2, num_classes=3, hidden_size=4, **options)


def test_logits_are_read_from_the_last_valid_step():
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
    """Batches of unequal size: the epoch's figures are those of all sequences together."""
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
def test_a_task_built_in_python_is_rebuilt_from_its_checkpoint(cell, tmp_path):
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


def test_a_task_built_by_the_command_line_is_rebuilt_from_its_checkpoint(trained):
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
