"""Every configuration parses, is built, and takes a step; those of published rows have the published size."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from helpers.fake_corpus import write_small_corpus
from helpers.paths import ROOT

from app.commands.main import main

CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
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
    "PennTreebank": ["--data.batch_size", "2", "--model.embedding_size", "4", "--model.hidden_sizes", "[6, 5, 4]"],
}
DATA_DIR = os.environ.get("DATA_DIR")


def takes_a_step(config: Path | str, *options: str) -> bool:
    trial = ["--trainer.fast_dev_run", "true", "--trainer.enable_progress_bar", "false"]
    return main(["fit", "--config", str(config), *trial, *options]) == 0


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.filterwarnings("ignore:TIMIT is not what is expected")
def test_configuration_takes_a_step(config, small_mnist, small_timit, capsys):
    text = (ROOT / config).read_text(encoding="utf-8")
    data = re.search(r"class_path: (\w+)", text)[1]
    if data == "PennTreebank":
        write_small_corpus(small_mnist, "ptb.{}.txt", more_words=4000)
    short = SHORT | {"TIMIT": ["--data.batch_size", "2", "--data.prepared", str(small_timit / "features")]}
    assert takes_a_step(config, "--seed_everything", "0", *short.get(data, []))
    core_and_size = re.search(r"[a-z]+_\d+$", config.stem)
    if config.stem in PARAMETERS or core_and_size:
        expected = PARAMETERS.get(config.stem) or PARAMETERS[core_and_size[0]]
        assert f"{expected} parameters" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_header_says_what_to_expect(config):
    header = (ROOT / config).read_text(encoding="utf-8").partition("\ndata:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "Expected" in header
    assert "Time:" in header or "minute" in header


@pytest.mark.data
@pytest.mark.skipif(DATA_DIR is None, reason="DATA_DIR names no data")
@pytest.mark.parametrize(
    "config",
    [
        "configs/mnist/momentum_lstm_128.yaml",
        "configs/pmnist/momentum_dtriv_170.yaml",
        "configs/ptb/small.yaml",
        "configs/ptb/momentum_lstm.yaml",
    ],
)
def test_configuration_takes_a_step_on_the_real_data(config, capsys):
    assert takes_a_step(config, *(["--data.cache", "cache"] if "ptb" in config else []))
    assert "momentum_lstm.yaml" not in config or "24,221,600 parameters" in capsys.readouterr().out
