"""Optimizers by parameter role: steps, schedules, clipping and resume of the joint optimizer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from helpers.paths import QUICKSTART
from helpers.trainers import QUIET
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import SGD, Adam, AdamW, RMSprop

from app.commands.main import main
from app.optim.parameter_groups import JointOptimizer, optimizer_by_role
from app.tasks import SequenceClassifier
from cells import DTRIV, LSTM
from datamodules import Digits

OTHERS, ORTHOGONAL = partial(Adam, lr=1e-2), partial(RMSprop, lr=1e-3, alpha=0.9)


class DigitsInOrder(Digits):
    """Digits in a fixed order."""

    def train_dataloader(self):
        return self._loader(self.train)


def classifier(**options) -> SequenceClassifier:
    torch.manual_seed(0)
    cell = partial(DTRIV, rebase_every=3)
    options = {"optimizer": OTHERS, "orthogonal_optimizer": ORTHOGONAL, **options}
    return SequenceClassifier(cell, input_size=1, num_classes=10, hidden_size=6, **options)


def trained(task, epochs, ckpt_path=None, **options) -> Trainer:
    options = {"gradient_clip_val": 0.1, **options}
    trainer = Trainer(**QUIET, max_epochs=epochs, limit_train_batches=4, limit_val_batches=0, **options)
    trainer.fit(task, DigitsInOrder(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_each_parameter_uses_the_optimizer_of_its_role():
    """Compared with two separate optimizers on the same gradients."""
    joint, apart = classifier(), classifier()
    optimizer = optimizer_by_role(joint, OTHERS, ORTHOGONAL)
    rest = [p for n, p in apart.named_parameters() if n != "cell.skew"]
    separate = [OTHERS(rest, fused=True), ORTHOGONAL([apart.cell.skew])]
    for step in range(4):
        torch.manual_seed(step)
        for first, second in zip(joint.parameters(), apart.parameters(), strict=True):
            first.grad = torch.randn_like(first)
            second.grad = first.grad.clone()
        optimizer.step()
        for part in separate:
            part.step()
    for first, second in zip(joint.parameters(), apart.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resumed_run_is_bitwise_identical(precision, tmp_path):
    whole, resumed = classifier(), classifier()
    trained(whole, 4, precision=precision)
    trained(resumed, 2, precision=precision).save_checkpoint(tmp_path / "half.ckpt")
    resumed = classifier()
    trained(resumed, 4, tmp_path / "half.ckpt", precision=precision)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


@pytest.mark.parametrize("factory", [Adam, AdamW])
def test_adam_uses_the_fused_kernel_on_the_cpu_unless_told_otherwise(factory):
    task = SequenceClassifier(LSTM, input_size=1, num_classes=10, hidden_size=6)
    (group,) = optimizer_by_role(task, factory, None).param_groups
    assert group["fused"]
    for options in ({"fused": False}, {"foreach": True}, {"differentiable": True}):
        (group,) = optimizer_by_role(task, partial(factory, **options), None).param_groups
        assert group["fused"] == options.get("fused")


def test_lightning_clips_all_groups_together_and_counts_one_step():
    norms = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, task, optimizer):
            norms.append(torch.cat([p.grad.flatten() for p in task.parameters()]).norm().item())

    task = classifier()
    trainer = trained(task, 1, gradient_clip_val=None, callbacks=[Watch()])
    assert trainer.global_step == 4
    assert int(task.cell.steps) == 4
    clipped = trained(classifier(), 1)
    gradients = torch.cat([p.grad.flatten() for p in clipped.lightning_module.parameters()])
    assert max(norms) > 0.1
    assert gradients.norm() <= 0.1 * 1.001


def test_learning_rates_follow_the_schedule_in_each_group():
    task = classifier(lr_schedule="one_cycle")
    (group, orthogonal) = trained(task, 1).optimizers[0].param_groups
    assert (group["name"], orthogonal["name"]) == ("others", "orthogonal")
    assert (group["max_lr"], orthogonal["max_lr"]) == (1e-2, 1e-3)
    assert group["lr"] / orthogonal["lr"] == pytest.approx(10)


def test_closure_is_called_once():
    weight = torch.nn.Parameter(torch.ones(1))
    other = torch.nn.Parameter(torch.ones(1))
    calls = []

    def closure():
        calls.append(1)
        loss = (weight * other).sum()
        loss.backward()
        return loss

    assert JointOptimizer(a=SGD([weight], lr=0.1), b=SGD([other], lr=0.2)).step(closure).item() == 1
    assert len(calls) == 1
    assert (weight.item(), other.item()) == (pytest.approx(0.9), pytest.approx(0.8))


def test_one_optimizer_without_orthogonal_parameters_or_optimizer():
    task = SequenceClassifier(LSTM, input_size=1, num_classes=10, hidden_size=6)
    assert type(optimizer_by_role(task, OTHERS, ORTHOGONAL)) is Adam
    assert type(optimizer_by_role(classifier(), OTHERS, None)) is Adam


def test_from_the_command_line_into_configuration_and_checkpoint():
    cell = ["--model.cell", "DTRIV", "--model.hidden_size", "6", "--model.lr_schedule", "constant"]
    optimizer = ["--model.orthogonal_optimizer", "RMSprop", "--model.orthogonal_optimizer.lr", "2e-4"]
    trainer = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--run_dir", "run"]
    assert main(["fit", "--config", QUICKSTART, *cell, *optimizer, *trainer]) == 0
    saved = yaml.safe_load(Path("run/config.yaml").read_text())["model"]["init_args"]["orthogonal_optimizer"]
    assert (saved["class_path"], saved["init_args"]["lr"]) == ("torch.optim.RMSprop", 2e-4)
    task = SequenceClassifier.load_from_checkpoint("run/checkpoints/best.ckpt", weights_only=True)
    (orthogonal,) = [g for g in task.configure_optimizers().param_groups if g["name"] == "orthogonal"]
    assert orthogonal["lr"] == 2e-4
    assert orthogonal["params"][0] is task.cell.skew
    curves = EventAccumulator("run/tensorboard")
    curves.Reload()
    assert {"watch_lr-JointOptimizer/others", "watch_lr-JointOptimizer/orthogonal"} <= set(curves.Tags()["scalars"])
