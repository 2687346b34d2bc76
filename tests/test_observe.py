"""What TensorBoard shows beside loss and accuracy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import QUICKSTART
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.callbacks import Observe
from app.cli import main
from app.pictures import COLUMNS, LINE, MARGIN, SQUARE, WIDTH, confusion_picture, examples_picture
from app.tasks import SequenceClassifier
from cells import DTRIV
from datamodules import MNIST, Digits


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_confusion_picture_is_the_darker_the_larger_the_share():
    counts = torch.tensor([[8, 0, 0], [5, 5, 0], [0, 0, 0]])
    picture = confusion_picture(counts)
    assert picture.shape == (MARGIN + 3 * SQUARE, MARGIN + 3 * SQUARE, 3)
    red = np.array([[picture[MARGIN + SQUARE * r + 2, MARGIN + SQUARE * c + 2, 0] for c in range(3)] for r in range(3)])
    assert red.tolist() == [[0, 255, 255], [128, 128, 255], [255, 255, 255]]


def test_examples_picture_marks_what_was_taken_for_another():
    images = torch.zeros(COLUMNS + 1, 4, 4)
    images[0] = 1
    picture = examples_picture(images, [3] * (COLUMNS + 1), [3] * COLUMNS + [5])
    assert picture.shape == (2 * (WIDTH + LINE), COLUMNS * WIDTH, 3)
    assert (picture[1 : WIDTH - 1, 1 : WIDTH - 1] == 255).all()
    assert (picture[1 : WIDTH - 1, WIDTH + 1 : 2 * WIDTH - 1] == 0).all()
    coloured = picture.max(-1) - picture.min(-1) > 100
    reds = coloured & (picture[..., 0] > picture[..., 1])
    assert reds[WIDTH + LINE :, :WIDTH].any()
    assert not reds[: WIDTH + LINE].any()


@pytest.mark.parametrize("options", [{}, {"permutation": 92916}, {"layout": "rows", "downsample": 2}])
def test_images_are_what_the_file_holds_in_any_order(options, small_mnist):
    data, plain = MNIST(**options), MNIST(downsample=options.get("downsample", 1))
    data.setup()
    plain.setup()
    expected = plain.test.tensors["inputs"][:3].flatten(1)
    assert torch.equal(data.images(data.test.tensors["inputs"][:3]).flatten(1), expected)


class Watch(Callback):
    """The gradients that Observe saw, and the predictions of the last validation."""

    def __init__(self):
        self.norms, self.right = [], 0

    def on_before_optimizer_step(self, trainer, task, optimizer):
        self.norms.append({name: p.grad.norm().item() for name, p in task.named_parameters()})

    def on_validation_epoch_start(self, *_):
        self.right = 0

    def on_validation_batch_end(self, trainer, task, outputs, batch, *_):
        self.right += int((outputs.argmax(-1) == batch["targets"]).sum())


@pytest.fixture
def observed():
    watch, observe = Watch(), Observe()
    task = SequenceClassifier(partial(DTRIV, rebase_every=1), input_size=1, num_classes=10, hidden_size=6)
    trainer = Trainer(
        logger=TensorBoardLogger(".", name="", version="events"),
        callbacks=[observe, watch],
        max_epochs=2,
        limit_train_batches=3,
        log_every_n_steps=1,
        gradient_clip_val=1e-3,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, Digits())
    return watch, observe, events(Path("events"))


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
        logged = [event.value for event in found.Scalars(f"gradient_norm/{part}")]
        assert logged == pytest.approx([value**0.5 for value in values], rel=1e-5)
    assert min(expected["all"]) > 1e-6


def test_throughput_confusion_and_examples(observed):
    watch, observe, found = observed
    rates = [event.value for event in found.Scalars("throughput/sequences_per_second")]
    assert len(rates) == 2
    assert min(rates) > 0
    assert observe.counts_CC.sum() == 180
    assert observe.counts_CC.trace() == watch.right
    assert [image.step for image in found.Images("confusion")] == [3, 6]
    assert len(found.Images("examples")) == 2


@pytest.mark.parametrize("observe", ["true", "false"])
def test_one_argument_switches_it_off(observe):
    options = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--model.hidden_size", "4"]
    assert main(["fit", "--config", QUICKSTART, *options, "--run_dir", "run", "--observe", observe]) == 0
    tags = events(Path("run/tensorboard")).Tags()
    assert set(tags["images"]) == ({"confusion", "examples"} if observe == "true" else set())
    assert ("throughput/sequences_per_second" in tags["scalars"]) == (observe == "true")
