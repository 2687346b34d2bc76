"""What the README says is what the program does."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_corpus import write_small_corpus
from helpers.paths import ROOT

from app.commands.main import main
from cells import check_cell

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    shlex.split(line.partition("python -m app ")[2])
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if "python -m app " in line
]
PATHS = {"PYTHONPATH": str(ROOT)}
SHORT = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
SHORT += [f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]


@pytest.fixture
def own_cell(monkeypatch):
    """The README's example of a cell, in a file of the working folder."""
    Path("my_cells.py").write_text(PYTHON[0])
    monkeypatch.syspath_prepend(Path.cwd())
    sys.modules.pop("my_cells", None)


@pytest.mark.parametrize("arguments", [line for line in COMMANDS if "--trainer.devices" not in line], ids=" ".join)
@pytest.mark.filterwarnings("ignore:TIMIT is incomplete")
def test_command(arguments, trained, trained_language_model, own_cell, small_mnist, small_timit):
    write_small_corpus(small_mnist, "ptb.{}.txt", more_words=4000)
    Path("my.txt").write_text("the cat sees a bird\n")
    run = trained
    if "--resume" in arguments:  # which writes into the run directory
        run = Path(shutil.copytree(trained, "run"))
    places = {"RUN": run, "DISC": small_timit / "disc", "FEATURES": small_timit / "features"}
    places["PTB/checkpoints"] = trained_language_model / "checkpoints"
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    assert main([*arguments, *(SHORT if arguments[0] == "fit" and run is trained else [])]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [line for line in COMMANDS if "--trainer.devices" in line], ids=" ".join)
def test_command_of_several_processes(arguments):
    """Lightning starts the others by the command line of the first, so it needs one of its own."""
    subprocess.run([sys.executable, "-m", "app", *arguments, *SHORT], check=True, env=os.environ | PATHS)


def test_own_cell_keeps_the_contract(own_cell):
    import my_cells

    check_cell(my_cells.Leaky)


@pytest.mark.parametrize("code", PYTHON[1:], ids=lambda code: code.strip().splitlines()[-1])
def test_code(code):
    exec(compile(code, "README.md", "exec"), {})
