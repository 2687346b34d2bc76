"""Tasks and data modules in a file outside the packages, used from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.commands.main import main

SOURCE = '''
import torch
from torch.nn import functional as F
from torch.optim import SGD

from app.optim.parameter_groups import OptimizerFactory
from app.tasks import Task
from app.tasks.base import CellFactory, StepOutput
from datamodules import DataModule
from datamodules.base import TensorsDataset


class Sums(DataModule):
    """Sequences of random numbers; the targets are their sums."""

    input_size = 3
    num_sums = 3
    provided_sizes = ("input_size", "num_sums")

    def setup(self, stage=None):
        inputs = torch.rand(64, 5, 3, generator=torch.Generator().manual_seed(0))
        self.train = self.validation = self.test = TensorsDataset(inputs=inputs, targets=inputs.sum(1))


class Summing(Task):
    """Regression of sums."""

    required_sizes = ("input_size", "num_sums")
    monitor, mode = "validation/loss", "min"

    def __init__(self, cell: CellFactory, input_size: int, num_sums: int, optimizer: OptimizerFactory = SGD):
        super().__init__(optimizer, "constant")
        self.cell = cell(input_size, num_sums)
        self.keep_hyperparameters(self.cell, input_size=input_size, num_sums=num_sums)

    def shared_step(self, batch, part):
        outputs = self.cell(batch["inputs"])[0][:, -1]
        return StepOutput(F.mse_loss(outputs, batch["targets"]), outputs, len(outputs))
'''


@pytest.fixture
def own_module() -> str:
    Path("third_party.py").write_text(SOURCE)
    return "third_party"


def test_sizes_declared_by_a_third_party_are_linked(own_module, capsys):
    options = ["--data", f"{own_module}.Sums", "--model", f"{own_module}.Summing", "--model.cell", "LSTM"]
    assert main(["fit", *options, "--trainer.max_epochs", "1", "--run_dir", "run"]) == 0
    assert "Summing with LSTM(3, 3" in capsys.readouterr().out


def test_sizes_that_the_data_do_not_provide_are_named(own_module, capsys):
    options = ["--data", "Digits", "--model", f"{own_module}.Summing", "--model.cell", "LSTM"]
    assert main(["fit", *options]) == 2
    assert (
        "Summing needs num_sums of the data, but Digits provides input_size and num_classes" in capsys.readouterr().err
    )


def test_task_that_keeps_no_hyperparameters_is_trained_evaluated_and_resumed(own_module):
    source = SOURCE.replace("self.keep_hyperparameters(self.cell, input_size=input_size, num_sums=num_sums)", "")
    Path("without_hyperparameters.py").write_text(source)
    module = "without_hyperparameters"
    options = ["--data", f"{module}.Sums", "--model", f"{module}.Summing", "--model.cell", "LSTM"]
    assert main(["fit", *options, "--trainer.max_epochs", "1"]) == 0
    (run,) = Path("runs/run").iterdir()
    assert run.name.startswith("LSTM-seed0-")
    assert json.loads((run / "results.json").read_text())["cell"] is None
    assert main(["test", "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    assert main(["fit", "--resume", str(run), "--trainer.max_epochs", "2"]) == 0
