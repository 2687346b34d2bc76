"""Callbacks that every run of fit uses."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Trainer

from app.callbacks.defaults import run_callbacks
from app.runs.run_directory import RunDirectory
from app.tasks import SequenceClassifier
from cells import RNN
from datamodules import Digits


class Scripted(SequenceClassifier):
    """A classifier with scripted validation accuracies."""

    accuracies = (0.5, 0.75, 0.75, 0.625)

    def validation_step(self, batch, batch_idx):
        self.log("validation/accuracy", self.accuracies[self.current_epoch])


@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 0)])
def test_best_checkpoint_is_the_latest_of_tied_epochs(mode, best, tmp_path):
    task = Scripted(RNN, input_size=1, num_classes=10, hidden_size=2)
    task.mode = mode
    run = RunDirectory(tmp_path)
    trainer = Trainer(
        max_epochs=4,
        limit_train_batches=1,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=run_callbacks(task, run, observe=False)[:-2],
    )
    trainer.fit(task, Digits())
    assert torch.load(run.best, weights_only=True)["epoch"] == best
    assert torch.load(run.last, weights_only=True)["epoch"] == 3
    assert {path.name for path in run.checkpoints.iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
