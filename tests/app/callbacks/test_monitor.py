"""Gradient norms, throughput and figures in TensorBoard."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import QUICKSTART
from pytorch_lightning import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.callbacks.monitor import SHOWINGS, Monitor
from app.commands.main import main
from app.plots.figures import confusion_figure
from app.plots.tensorboard import Board, RunLogger
from app.tasks import SequenceClassifier
from cells import DTRIV, RNN
from datamodules import Digits

THROUGHPUT = ("sequences_per_second", "seconds_per_step", "share_waiting_for_data", "peak_memory_MiB")


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


class Watch(Callback):
    """Records gradient norms, and the correct predictions of the last validation."""

    def __init__(self):
        self.norms, self.right = [], 0

    def on_before_optimizer_step(self, trainer, task, optimizer):
        self.norms.append({name: p.grad.norm().item() for name, p in task.named_parameters()})

    def on_validation_epoch_start(self, *_):
        self.right = 0

    def on_validation_batch_end(self, trainer, task, outputs, batch, *_):
        self.right += int((outputs.argmax(-1) == batch["targets"]).sum())


def train(*callbacks: Callback, epochs: int) -> SequenceClassifier:
    """Train a task that writes its events to the folder ``events``, and return it."""
    task = SequenceClassifier(partial(DTRIV, rebase_every=1), input_size=1, num_classes=10, hidden_size=6)
    trainer = Trainer(
        logger=RunLogger(".", name="", version="events"),
        callbacks=list(callbacks),
        max_epochs=epochs,
        limit_train_batches=3,
        log_every_n_steps=1,
        gradient_clip_val=1e-3,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, Digits())
    return task


@pytest.fixture
def observed():
    watch = Watch()
    task = train(Monitor(), watch, epochs=2)
    return watch, task, events(Path("events"))


def test_gradient_norms_are_those_before_clipping(observed):
    watch, _, found = observed
    squares = [{name: norm**2 for name, norm in step.items()} for step in watch.norms]
    expected = {
        "orthogonal": [step["cell.skew"] for step in squares],
        "cell": [step["cell.weight_ih"] + step["cell.modrelu_bias"] for step in squares],
        "head": [step["head.weight"] + step["head.bias"] for step in squares],
        "all": [sum(step.values()) for step in squares],
    }
    for part, values in expected.items():
        logged = [event.value for event in found.Scalars(f"watch_gradient_norm/{part}")]
        assert logged == pytest.approx([value**0.5 for value in values], rel=1e-5)
    assert min(expected["all"]) > 1e-6


def test_throughput_confusion_and_examples(observed):
    watch, task, found = observed
    rates = [event.value for event in found.Scalars("watch_throughput/sequences_per_second")]
    assert len(rates) == 2
    assert min(rates) > 0
    assert task.counts_CC.sum() == 180
    assert task.counts_CC.trace() == watch.right
    assert [image.step for image in found.Images("watch_confusion")] == [2, 5]
    assert len(found.Images("watch_examples")) == 2


def test_time_and_memory(monkeypatch):
    """Batches take 0.05 s, optimizer steps 0.1 s, and a validation in the middle of the epoch 0.2 s."""
    now = [0.0]
    monkeypatch.setattr("app.callbacks.monitor.time.monotonic", lambda: now[0])

    class Slow(Digits):
        def train_dataloader(self):
            def batches():
                for batch in list(super(Slow, self).train_dataloader())[:4]:
                    now[0] += 0.05
                    yield batch

            return list_like(batches, 4)

    class Busy(Callback):
        def on_before_optimizer_step(self, *_):
            now[0] += 0.1

        def on_validation_start(self, *_):
            now[0] += 0.2

    task = SequenceClassifier(RNN, input_size=1, num_classes=10, hidden_size=3)
    logger = RunLogger(".", name="", version="events")
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        logger=logger, callbacks=[Busy(), Monitor()], max_epochs=1, val_check_interval=2, limit_val_batches=1, **quiet
    )
    trainer.fit(task, Slow())
    found = events(Path("events"))
    value = {name: found.Scalars(f"watch_throughput/{name}")[0].value for name in THROUGHPUT}
    assert value["seconds_per_step"] == pytest.approx(0.15, rel=0.2)  # the loader prefetches one batch
    assert value["share_waiting_for_data"] == pytest.approx(1 / 3, rel=0.2)
    assert value["sequences_per_second"] == pytest.approx(64 / 0.15, rel=0.2)
    assert value["peak_memory_MiB"] * 2**20 > 1e8


def list_like(batches, length):
    """Return a loader that iterates over a generator."""

    class Loader:
        def __iter__(self):
            return batches()

        def __len__(self):
            return length

    return Loader()


def test_number_of_figures_is_limited_and_includes_the_last_validation(monkeypatch):
    shown = []
    monkeypatch.setattr(SequenceClassifier, "show_batch", lambda *_: None)
    monkeypatch.setattr(SequenceClassifier, "show_epoch", lambda task, board: shown.append((board.step + 1) // 3))
    train(Monitor(), epochs=2 * SHOWINGS - 1)
    assert shown == [*range(2, 2 * SHOWINGS - 1, 2), 2 * SHOWINGS - 1]


def test_board_shows_everything_at_the_current_step():
    samples = torch.linspace(-1, 1, 100)

    class Show(Callback):
        def on_train_batch_end(self, trainer, *_):
            board = Board(trainer)
            board.scalar("number", 2.5)
            board.image("picture", np.zeros((4, 6, 3), np.uint8))
            board.audio("sound", samples, 8000)
            board.text("words", "some **words**")

    train(Show(), epochs=1)
    found = events(Path("events"))
    assert [(event.step, event.value) for event in found.Scalars("watch_number")] == [(1, 2.5), (2, 2.5), (3, 2.5)]
    assert [(image.step, image.width, image.height) for image in found.Images("watch_picture")][-1] == (3, 6, 4)
    assert [(sound.step, sound.sample_rate, sound.length_frames) for sound in found.Audio("watch_sound")][-1] == (
        3,
        8000,
        100,
    )
    assert found.Tensors("watch_words/text_summary")[-1].tensor_proto.string_val[0] == b"some **words**"


def test_without_tensorboard_figures_are_not_rendered():
    board = Board(Trainer(logger=False, barebones=True))
    assert not board.enabled
    board.figure("picture", confusion_figure(torch.eye(2)))
    board.scalar("number", 1.0)


@pytest.mark.parametrize("observe", ["true", "false"])
def test_observe_false_switches_everything_off(observe):
    options = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--model.hidden_size", "4"]
    assert main(["fit", "--config", QUICKSTART, *options, "--run_dir", "run", "--observe", observe]) == 0
    tags = events(Path("run/tensorboard")).Tags()
    names = ("confusion", "examples", "gradient_through_time/cell", "gradient_through_time/cell_latest")
    pictures = {f"watch_{name}" for name in names}
    assert set(tags["images"]) == (pictures if observe == "true" else set())
    assert ("watch_dynamics/half_life/h" in tags["scalars"]) == (observe == "true")
    assert Path("run/gradients.npz").exists() == (observe == "true")
    assert ("watch_throughput/sequences_per_second" in tags["scalars"]) == (observe == "true")
