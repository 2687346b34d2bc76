"""Cells of other packages are found by name, without a change of this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.paths import QUICKSTART, ROOT

import cells
from cells import LSTM, Cell, find_cell

MODULE = '''
import torch
from torch import nn
from cells import Cell


class Echo(Cell):
    """h_t = gain x_t W."""

    def __init__(self, input_size, hidden_size, *, gain: float = 1.0):
        super().__init__(input_size, hidden_size)
        self.gain = gain
        self.weight = nn.Parameter(torch.randn(input_size, hidden_size))

    def initial_state(self, batch_size):
        return ()

    def step(self, x_BI, state):
        return self.gain * x_BI @ self.weight, state
'''


def wheel(name: str, module: str, entry_point: str) -> Path:
    """Write a wheel (a zip file) with one module and one entry point in the group ``cells``."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[cells]\n{name} = {entry_point}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = Path(f"{name}-1.0-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Return an environment with an intact and a broken plug-in package."""
    target = tmp_path / "site"
    wheels = [wheel("echo_cells", MODULE, "echo_cells"), wheel("broken_cells", "import absent\n", "broken_cells:Cell")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *map(str, wheels)], check=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), str(ROOT)])}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_cell_of_an_installed_package_is_listed_and_trained(installed):
    listed = run(installed, "cells")
    row = next(line for line in listed.stdout.splitlines() if line.startswith("Echo "))
    assert "echo_cells" in row
    assert "h_t = gain x_t W." in row
    assert "the cells of broken_cells (broken_cells:Cell) cannot be imported" in listed.stderr
    options = ["--run_dir", "run", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    cell = ["--model.cell", "Echo", "--model.cell.gain", "2"]
    trained = run(installed, "fit", "--config", QUICKSTART, *cell, *options)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(Path("run/results.json").read_text())["cell"]["init_args"] == {"gain": 2.0}


def test_duplicate_name_raises_with_both_paths():
    double = type("LSTM", (LSTM,), {"__module__": "elsewhere", "__qualname__": "LSTM"})
    try:
        with pytest.raises(ValueError, match=r"'LSTM': cells.LSTM and elsewhere.LSTM"):
            find_cell("LSTM")
        assert find_cell("cells.cores.lstm.LSTM") is LSTM
    finally:
        del double
        import gc

        gc.collect()  # a class exists until its reference cycles are collected
    assert find_cell("LSTM") is LSTM


def test_unknown_name_lists_the_closest_first():
    with pytest.raises(ValueError, match="closest first: MomentumGRU, "):
        find_cell("momentum_gru")


def test_abstract_classes_are_not_registered():
    names = cells.registered_cells()
    assert "Cell" not in names
    assert "LSTMCore" not in names
    with pytest.raises(ValueError, match="is not a cell"):
        find_cell("cells.cell.Cell")
    assert not any(issubclass(Cell, cls) for classes in names.values() for cls in classes)
