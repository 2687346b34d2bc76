"""Numbers that are not finite end a training before they reach the weights, and the message says where they arose."""

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
    """A classifier in which something becomes infinite in step 7 (epoch 1, batch 2)."""

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
    ("what", "sentence"),
    [
        (
            "gradient",
            "the gradients of cell are not finite, those of head still are (step 7, epoch 1, batch 2; the loss is",
        ),
        (
            "loss",
            "gradients of cell and head are not finite (step 7, epoch 1, batch 2; the loss, too, is not finite: nan)",
        ),
    ],
)
def test_the_step_the_batch_and_the_group_are_named(what, sentence, monkeypatch, capsys):
    monkeypatch.setattr(Breaking, "what", what)
    assert main(["fit", *SMALL, *QUIET, "--model", f"{__name__}.Breaking"]) == 3
    said = capsys.readouterr().err
    assert sentence in said
    assert "the last good checkpoint: run/checkpoints/last.ckpt" in said
    for name in ("best", "last"):
        kept = torch.load(Path(f"run/checkpoints/{name}.ckpt"), weights_only=True)
        assert kept["global_step"] == 5
        assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_kept(monkeypatch, capsys):
    monkeypatch.setattr(Breaking, "what", "weights")
    options = ["--model", f"{__name__}.Breaking", "--save_every", "1", "--trainer.gradient_clip_val", "null"]
    assert main(["fit", *SMALL, *QUIET, *options]) == 3
    assert "not finite" in capsys.readouterr().err
    assert torch.load(Path("run/checkpoints/last.ckpt"), weights_only=True)["global_step"] <= 7


def test_an_orthogonal_weight_is_named_by_its_role(monkeypatch, capsys):
    options = ["--model.cell", "DTRIV", "--model.optimizer", "SGD", "--model.optimizer.lr", "1e30"]
    assert main(["fit", *SMALL, *QUIET, *options]) == 3
    said = capsys.readouterr().err
    assert "not finite" in said
    assert "orthogonal" in said
