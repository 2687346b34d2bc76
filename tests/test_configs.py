"""Every configuration parses, is built, and takes a step; its parameters are counted."""

from __future__ import annotations

import pytest
from paths import ROOT

from app.cli import main

CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
PARAMETERS = {
    "mnist/lstm_128": 68_362,
    "mnist/momentum_lstm_128": 68_362,
}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_configuration_takes_a_step(config, small_mnist, capsys):
    options = ["--trainer.fast_dev_run", "true", "--trainer.enable_progress_bar", "false"]
    if "class_path: MNIST" in (ROOT / config).read_text():
        options += ["--data.batch_size", "2", "--data.downsample", "7"]  # 16 steps: the model is the same
    assert main(["fit", "--config", str(config), *options]) == 0
    name = "/".join(config.with_suffix("").parts[1:])
    if name in PARAMETERS:
        assert f"{PARAMETERS[name]:,} parameters" in capsys.readouterr().out
