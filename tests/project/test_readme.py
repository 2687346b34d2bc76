"""README and the documentation say what the program does: their commands and code blocks are run.

- Commands of ``python -m app`` run with small data and few batches.
- Those of several processes run in a process of their own, and are slow.
- Commands of a cluster or of a container engine are parsed: ``fit`` accepts their options.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.documents import PAGES, README
from helpers.fake_cifar import write_small_cifar
from helpers.fake_corpus import write_small_corpus
from helpers.fake_series import write_small_series
from helpers.fake_speech_commands import write_small_speech_commands
from helpers.paths import ROOT

from app.commands.main import main

PATHS = {"PYTHONPATH": str(ROOT)}
SHORT = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--observe", "false"]
SHORT += [f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]
PRINTS = ("--print_config", "--model.help", "--data.help")


def once(get):
    """Return pytest parameters of the commands of all pages, each at the first page that has it."""
    found = {tuple(arguments): page for page in reversed(PAGES) for arguments in get(page)}
    return [
        pytest.param(page, list(arguments), id=f"{page.name}: {' '.join(arguments)}")
        for arguments, page in reversed(found.items())
    ]


ALL = once(lambda page: page.commands)
SEVERAL = [command for command in ALL if "--trainer.devices" in command.values[1]]


@pytest.fixture
def files_of(monkeypatch):
    """Return a function that writes the files of a page into the working directory, from where they are imported."""
    written = []

    def write(page):
        page.write_files(Path.cwd())
        monkeypatch.syspath_prepend(Path.cwd())
        written.extend(page.files)
        forget()
        importlib.invalidate_caches()

    def forget():
        for name in written:
            sys.modules.pop(Path(name).stem, None)

    yield write
    forget()


def slow_outside_the_readme(command):
    """Mark a command of another page, because these are many."""
    marks = [] if command.values[0].name == "README.md" else pytest.mark.slow
    return pytest.param(*command.values, marks=marks, id=command.id)


@pytest.mark.parametrize(
    ("page", "arguments"), [slow_outside_the_readme(command) for command in ALL if command not in SEVERAL]
)
@pytest.mark.filterwarnings("ignore:TIMIT is not what is expected")
def test_command(
    page, arguments, files_of, trained, trained_language_model, swept, small_mnist, small_timit, monkeypatch
):
    files_of(page)
    study, study_directory = swept
    shutil.copytree(study_directory, "runs/studies/small")
    write_small_corpus(small_mnist, "ptb.{}.txt", more_words=4000)
    write_small_series(small_mnist)
    write_small_cifar(small_mnist, monkeypatch)
    write_small_speech_commands(small_mnist)
    Path("my.txt").write_text("the cat sees a bird\n")
    run = trained
    if "--resume" in arguments:  # it writes into the run directory
        run = Path(shutil.copytree(trained, "run"))
    places = {"RUN": run, "DISC": small_timit / "disc", "FEATURES": small_timit / "features"}
    places["configs/studies/momentum_digits.yaml"] = study
    places["PTB/checkpoints"] = trained_language_model / "checkpoints"
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    if any(option in arguments for option in PRINTS):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    else:
        assert main([*arguments, *(SHORT if arguments[0] == "fit" and run is trained else [])]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("page", "arguments"), SEVERAL)
def test_command_of_several_processes(page, arguments):
    """Lightning starts the other processes with the command line of the first one, which therefore is its own."""
    subprocess.run([sys.executable, "-m", "app", *arguments, *SHORT], check=True, env=os.environ | PATHS)


@pytest.mark.parametrize(("page", "options"), once(lambda page: page.elsewhere))
def test_options_of_clusters_and_containers_are_those_of_fit(page, options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *options, "--print_config"])
    assert ended.value.code == 0


@pytest.mark.parametrize("page", [page for page in PAGES if page.python], ids=lambda page: page.name)
def test_python_blocks_run(page, files_of):
    files_of(page)
    namespace = {}
    for code in page.python:
        exec(compile(code, page.name, "exec"), namespace)


def test_cell_of_readme_keeps_the_contract(files_of):
    files_of(README)
    import my_cells

    from cells import check_cell

    check_cell(my_cells.Leaky)


def test_readme_is_short():
    assert len(README.text.splitlines()) <= 150
