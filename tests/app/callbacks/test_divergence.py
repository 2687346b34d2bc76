"""Numbers that are not finite stop the training before they reach the weights, with a message that says where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.paths import QUICKSTART

from app.commands.main import main
from app.tasks import SequenceClassifier

SMALL = ["--config", QUICKSTART, "--model.hidden_size", "8", "--data.batch_size", "300", "--run_dir", "run"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "3"]


class Breaking(SequenceClassifier):
    """A classifier with a number that is not finite in step 7 (epoch 1, batch 2)."""

    what = "gradient"

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.global_step == 7 and self.what == "gradient":
            self.cell.weight_hh.register_hook(lambda gradient: gradient * torch.inf)
        return loss * (torch.nan if self.global_step == 7 and self.what == "loss" else 1)

    def on_before_zero_grad(self, optimizer):
        if self.global_step == 7 and self.what == "weights":
            with torch.no_grad():
                self.head.bias[0] = torch.inf


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "gradient",
            "the gradients of cell are not finite; those of head are (step 7, epoch 1, batch 2; the loss is",
        ),
        (
            "loss",
            "gradients of cell and head are not finite (step 7, epoch 1, batch 2; the loss is not finite: nan)",
        ),
    ],
)
def test_message_names_step_batch_and_part(what, message, monkeypatch, capsys):
    monkeypatch.setattr(Breaking, "what", what)
    assert main(["fit", *SMALL, *QUIET, "--model", f"{__name__}.Breaking"]) == 3
    stderr = capsys.readouterr().err
    assert message in stderr
    assert "The last checkpoint is run/checkpoints/last.ckpt" in stderr
    for name in ("best", "last"):
        kept = torch.load(Path(f"run/checkpoints/{name}.ckpt"), weights_only=True)
        assert kept["global_step"] == 5
        assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_saved(monkeypatch, capsys):
    monkeypatch.setattr(Breaking, "what", "weights")
    options = ["--model", f"{__name__}.Breaking", "--save_every", "1", "--trainer.gradient_clip_val", "null"]
    assert main(["fit", *SMALL, *QUIET, *options]) == 3
    assert "not finite" in capsys.readouterr().err
    assert torch.load(Path("run/checkpoints/last.ckpt"), weights_only=True)["global_step"] <= 7


def test_message_names_the_role_of_an_orthogonal_weight(monkeypatch, capsys):
    options = ["--model.cell", "DTRIV", "--model.optimizer", "SGD", "--model.optimizer.lr", "1e30"]
    assert main(["fit", *SMALL, *QUIET, *options]) == 3
    stderr = capsys.readouterr().err
    assert "not finite" in stderr
    assert "orthogonal" in stderr
