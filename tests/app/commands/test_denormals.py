"""Commands replace denormal numbers by 0 in every thread that trains, and say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import QUICKSTART, ROOT
from pytorch_lightning import Callback

from app.commands.main import main
from cells.denormals import flushes_denormals

SHORT = ["--config", QUICKSTART, "--model.hidden_size", "4", "--trainer.enable_progress_bar", "false"]
SHORT += ["--trainer.max_epochs", "1", "--data.batch_size", "400", "--run_dir", "run"]
ELEMENTS = 2**20  # enough for every thread of OpenMP


class Gradients(Callback):
    """Writes how many elements of a denormal gradient are not 0 in a training step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        x = torch.ones(ELEMENTS, requires_grad=True)
        (x * 1e-30).backward(torch.full((ELEMENTS,), 1e-10))
        kept = int(x.grad.view(torch.int32).count_nonzero())
        Path("found.json").write_text(str(kept))


@pytest.mark.slow
@pytest.mark.parametrize("flush", [True, False])
def test_denormal_gradient_is_flushed_in_every_thread(flush):
    command = [sys.executable, "-m", "app", "fit", *SHORT, "--trainer.callbacks", "test_denormals.Gradients"]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "2"}
    options = [] if flush else ["--flush_denormal", "false"]
    subprocess.run([*command, *options], env=environment, check=True)
    assert json.loads(Path("found.json").read_text()) == (0 if flush else ELEMENTS)
    assert json.loads(Path("run/results.json").read_text())["flush_denormal"] == flush


@pytest.mark.parametrize("before", [True, False])
def test_setting_of_the_calling_program_is_restored(before):
    torch.set_flush_denormal(before)
    try:
        assert flushes_denormals() == before
        assert main(["fit", *SHORT, "--flush_denormal", str(not before).lower(), "--trainer.max_epochs", "0"]) == 0
        assert flushes_denormals() == before
    finally:
        torch.set_flush_denormal(False)
