"""The average of NT-ASGD in validations, checkpoints and resumed runs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from app.callbacks.averaging import AveragedWeights
from app.optim.nt_asgd import NTASGD
from app.tasks import SequenceClassifier
from cells import RNN
from datamodules import Digits


class Watch(Callback):
    """Records the weights after each training step and in each validation, and the training losses."""

    def __init__(self) -> None:
        self.steps, self.validated, self.losses = [], [], []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.steps.append(task.head.weight.detach().clone())
        self.losses.append(outputs["loss"].item())

    def on_validation_epoch_end(self, trainer, task):
        if not trainer.sanity_checking:
            self.validated.append(task.head.weight.detach().clone())


def fit(folder, max_epochs: int, checkpoint=None) -> tuple[Watch, SequenceClassifier]:
    """Train epochs of two steps. Averaging starts after the third validation; validation losses are scripted."""
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


def test_average_is_validated_and_saved_while_training_continues_from_the_weights(tmp_path):
    watch, task = fit(tmp_path, 5)
    average = torch.stack(watch.steps[7:8]).mean(0)  # steps 6 and 7; the average leaves out the first
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
def test_resumed_run_is_bitwise_identical(epoch, tmp_path):
    uninterrupted, _ = fit(tmp_path / "whole", 5)
    resumed, _ = fit(tmp_path / "again", 5, tmp_path / "whole" / f"epoch={epoch}.ckpt")
    steps = 2 * (epoch + 1)
    assert resumed.losses == uninterrupted.losses[steps:]
    for found, expected in zip(resumed.steps, uninterrupted.steps[steps:], strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(resumed.validated[-1], uninterrupted.validated[-1])


def test_every_task_has_the_callback():
    task = SequenceClassifier(RNN, input_size=1, num_classes=2)
    assert [type(callback) for callback in task.configure_callbacks()] == [AveragedWeights]
