"""Tests of the configurations: each one builds and trains, published rows have the published number of parameters."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from helpers.fake_cifar import write_small_cifar
from helpers.fake_corpus import write_small_corpus
from helpers.fake_series import write_small_series
from helpers.fake_speech_commands import write_small_speech_commands
from helpers.paths import ROOT

from app.commands.main import main
from cells.engines import choice

FOLDER = ROOT / "configs"
STUDIES = FOLDER / "studies"  # tests/app/lab checks them
FILES = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*.yaml") if path.parent != STUDIES)
BASES = [path for path in FILES if path.parent in (Path("copying"), Path("adding"))]  # without a cell
CELLS = [path for path in FILES if path.parent.name == "cells"]  # nothing but a cell and its optimizers
SELF_CONTAINED = [path for path in FILES if path not in (*BASES, *CELLS)]


def bases_of(number: int, cell: Path) -> list[Path]:
    """Return the problems that a cell file is tested with: one for a general file, else all that it is for.

    A file in the folder of a problem is for this problem, and for one length if its name ends with it.
    """
    if cell.parent == Path("cells"):
        return [BASES[number % len(BASES)]]
    own = [base for base in BASES if base.parent == cell.parent.parent]
    return [base for base in own if cell.stem.endswith(f"_{base.stem}")] or own


PAIRS = [(base, cell) for number, cell in enumerate(CELLS) for base in bases_of(number, cell)]
PARAMETERS = {
    "lstm_128": "68,362",
    "lstm_256": "267,786",
    "dtriv_170": "16,415",
    "dtriv_360": "68,950",
    "dtriv_512": "136,970",
    "lstm_84": "83,205",
    "lstm_120": "136,089",
    "lstm_158": "203,159",
    "dtriv_224": "83,121",
    "dtriv_322": "135,208",
    "lmu": "102,027",
    "janet_128": "34,826",
    "nru_212": "165,554",
    "urlstm_256": "267,786",
    "urgru_256": "267,786",
    "gru_256": "201,482",
    "householder_170": "16,585",
    "unitary_232": "16,134",
    "filtered_lstm_128": "68,874",
    "learned_momentum_lstm_128": "68,364",
    "gated_momentum_lstm_128": "68,364",
    "linear_state_lstm_128": "76,602",
}
SHORT = {  # few and short sequences for the same model
    "MNIST": ["--data.batch_size", "2", "--data.downsample", "7"],
    "Copying": ["--data.batch_size", "2", "--data.blanks", "5"],
    "Adding": ["--data.batch_size", "2", "--data.steps", "8"],
    "AssociativeRecall": ["--data.batch_size", "2"],
    "SelectiveCopying": ["--data.batch_size", "2"],
    "CIFAR10": ["--data.batch_size", "2", "--data.train_size", "2"],
    "SpeechCommands": ["--data.batch_size", "2", "--data.train_size", "2"],
    "PennTreebank": ["--data.batch_size", "2", "--model.embedding_size", "4", "--model.hidden_sizes", "[6, 5, 4]"],
}
DATA_DIR = os.environ.get("DATA_DIR")


def takes_a_step(*configs: Path | str, options: Sequence[str] = ()) -> bool:
    files = [argument for config in configs for argument in ("--config", str(FOLDER / config))]
    trial = ["--trainer.fast_dev_run", "true", "--trainer.enable_progress_bar", "false"]
    return main(["fit", *files, *trial, *options]) == 0


@pytest.fixture
def without_compiler(monkeypatch):
    """Use the step loop, because the sequences are short, and the engines have tests of their own."""
    monkeypatch.setattr(choice, "choose_engine", lambda cell, x=None: "reference")


def slow_after_the_first_of_a_folder(configs):
    """Mark all but the first of each folder, because most differ in the cell and its size only."""
    first = {config.parent: config for config in reversed(configs)}
    return [
        pytest.param(config, marks=[] if config == first[config.parent] else pytest.mark.slow) for config in configs
    ]


@pytest.mark.parametrize("config", slow_after_the_first_of_a_folder(SELF_CONTAINED), ids=str)
@pytest.mark.usefixtures("without_compiler")
@pytest.mark.filterwarnings("ignore:TIMIT is incomplete")
def test_configuration_takes_a_step(config, small_mnist, small_timit, capsys, monkeypatch):
    text = (FOLDER / config).read_text(encoding="utf-8")
    data = re.search(r"class_path: (\w+)", text)[1]
    if data == "PennTreebank":
        write_small_corpus(small_mnist, "ptb.{}.txt", more_words=4000)
    elif data == "TimeSeries":
        write_small_series(small_mnist)
    elif data == "CIFAR10":
        write_small_cifar(small_mnist, monkeypatch)
    elif data == "SpeechCommands":
        write_small_speech_commands(small_mnist)
    short = SHORT | {"TIMIT": ["--data.batch_size", "2", "--data.prepared", str(small_timit / "features")]}
    assert takes_a_step(config, options=["--seed_everything", "0", *short.get(data, [])])
    core_and_size = re.search(r"[a-z]+_\d+$", config.stem)
    if config.stem in PARAMETERS or core_and_size:
        expected = PARAMETERS.get(config.stem) or PARAMETERS[core_and_size[0]]
        assert f"{expected} parameters" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("base", "cell"), PAIRS, ids=str)
@pytest.mark.usefixtures("without_compiler")
def test_problem_with_a_cell_takes_a_step(base, cell, capsys):
    short = SHORT["Copying" if base.parent.name == "copying" else "Adding"]
    assert takes_a_step(base, cell, options=["--seed_everything", "0", *short])
    built = yaml.safe_load((FOLDER / cell).read_text())["model"]["init_args"]["cell"]["class_path"]
    output = capsys.readouterr().out
    assert f" {built}(" in output
    assert "(not an argument of" not in output  # no argument of the base is lost


def test_every_cell_file_belongs_to_a_problem():
    assert {cell for _, cell in PAIRS} == set(CELLS)


@pytest.mark.parametrize("config", FILES, ids=str)
def test_header_is_short(config):
    lines = (FOLDER / config).read_text(encoding="utf-8").splitlines()
    header = list(itertools.takewhile(lambda line: line.startswith("# "), lines))
    assert 2 <= len(header) <= 4
    assert lines[len(header)] in ("data:", "model:", "seed_everything: 0")


@pytest.mark.data
@pytest.mark.skipif(DATA_DIR is None, reason="DATA_DIR names no data")
@pytest.mark.parametrize(
    "config",
    [
        "mnist/momentum_lstm_128.yaml",
        "pmnist/momentum_dtriv_170.yaml",
        "ptb/small.yaml",
        pytest.param("ptb/momentum_lstm.yaml", marks=pytest.mark.slow),
    ],
)
def test_configuration_takes_a_step_on_real_data(config, capsys):
    assert takes_a_step(config, options=["--data.cache", "cache"] if "ptb" in config else [])
    assert "momentum_lstm.yaml" not in config or "24,221,600 parameters" in capsys.readouterr().out
