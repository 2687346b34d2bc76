"""Tags in TensorBoard: which groups come first, and what keeps its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytorch_lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from app.plots.tensorboard import Board, RunLogger, tag_of


@pytest.mark.parametrize("name", ["train/loss", "validation/perplexity", "test/accuracy", "validation/best_accuracy"])
def test_metrics_of_the_data_splits_keep_their_names(name):
    assert tag_of(name) == name


@pytest.mark.parametrize("name", ["gradient_norm/all", "lr-Adam", "epoch", "training/loss", "test"])
def test_other_tags_get_a_prefix_once(name):
    assert tag_of(tag_of(name)) == tag_of(name) == f"watch_{name}"


def test_run_shows_losses_and_accuracies_first(trained):
    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    groups = sorted({tag.partition("/")[0] for kind in ("scalars", "images") for tag in tags[kind]})
    assert groups[:3] == ["test", "train", "validation"]
    assert {"watch_confusion", "watch_dynamics", "watch_epoch", "watch_throughput"} <= {*groups}


def test_results_and_hyperparameter_table_refer_to_metrics_that_exist(trained):
    results = json.loads((trained / "results.json").read_text())
    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    content = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    (info,) = metadata.parse_experiment_plugin_data(content).metric_infos
    (value,) = events.Scalars(info.name.tag)
    assert info.name.tag == "validation/best_loss"
    assert value.value == pytest.approx(results["validation"]["loss"])


def test_without_tensorboard_a_board_shows_nothing():
    board = Board(Trainer(logger=False, barebones=True))
    assert not board.enabled
    board.scalar("number", 1.0)


def test_board_writes_to_the_logger_of_the_run():
    board = Board(Trainer(logger=RunLogger(".", name="", version="events"), enable_checkpointing=False))
    board.scalar("number", 2.5)
    board.scalar("validation/number", 3.5)
    for writer in board._writers:
        writer.flush()
    events = EventAccumulator(str(Path("events")))
    events.Reload()
    assert {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]} == {
        "watch_number": 2.5,
        "validation/number": 3.5,
    }
