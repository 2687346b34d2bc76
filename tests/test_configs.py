"""Every configuration parses, is built, and takes a step."""

from __future__ import annotations

import pytest
from paths import ROOT

from app.cli import main

CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_configuration_takes_a_step(config):
    options = ["--trainer.fast_dev_run", "true", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", str(config), *options]) == 0
