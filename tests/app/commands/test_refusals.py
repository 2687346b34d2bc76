"""Options that Lightning, an optimizer or the operating system refuses, and runs that leave no results."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import QUICKSTART, ROOT

from app.commands.main import main
from app.commands.refusals import one_line_refusal

SMALL = ["--config", QUICKSTART, "--model.hidden_size", "4", "--model.lr_schedule", "constant", "--run_dir", "run"]
SHORT = ["--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1", "--data.batch_size", "400"]
PLUGINS = {
    "exits": "import sys\nsys.exit(0)\n",
    "broken": "def (:\n",
    "raises": "1 / 0\n",
    "controls": r"raise ValueError('a\nb\x1b[31m')",
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_epochs", "-5"], "--trainer.max_epochs must be at least 0, or -1 for no limit, got -5"),
        (["--trainer.max_steps", "-7"], "--trainer.max_steps must be at least 0, or -1 for no limit, got -7"),
        (["--trainer.limit_train_batches", "2.5"], "must be a number of batches or a fraction in [0, 1], got 2.5"),
        (["--trainer.limit_val_batches", "-1"], "must be a number of batches or a fraction in [0, 1], got -1"),
        (["--trainer.accumulate_grad_batches", "0"], "accumulate_grad_batches must be an integer of at least 1, got 0"),
        (["--trainer.val_check_interval", "0"], "--trainer.val_check_interval must be above 0, got 0"),
        (["--trainer.enable_checkpointing", "false"], "--trainer.enable_checkpointing must be true"),
        (["--trainer.gradient_clip_algorithm", "foo"], "`gradient_clip_algorithm` foo is invalid"),
        (["--trainer.max_time", "foo"], "not a valid duration"),
        (["--trainer.devices", "0"], "not a valid input using cpu accelerator"),
        (["--trainer.strategy", "deepspeed"], "you must have DeepSpeed installed"),
        (["--trainer.callbacks", "Nix"], "--trainer.callbacks: there is no class 'Nix'"),
        (
            ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "nix"],
            "`nix` which is not available",
        ),
        (
            ["--trainer.callbacks", "LearningRateFinder"],
            "the callback LearningRateFinder cannot be used here: AttributeError: When using the learning rate finder",
        ),
        (["--trainer.callbacks", "BackboneFinetuning"], "the callback BackboneFinetuning cannot be used here"),
        (["--trainer.callbacks", "Timer"], "the configuration cannot be stored as YAML: cannot represent an object"),
        (["--trainer.strategy", "ddp_spawn"], "--trainer.strategy must start processes that run the whole program"),
        (["--model.optimizer.capturable", "true"], "capturable=True, params and state_steps must be on supported"),
        (["--trainer.profiler", "pytorch"], "a copy of the task, which cannot be copied: Tried to deepcopy"),
        (["--model", "Task"], "--model must be one of "),
        (["--model", "app.tasks.encoder.EncoderTask"], "--model must be one of "),
        (["--data", "DataModule"], "--data must be one of "),
        (["--model", "FrameClassifier"], "FrameClassifier needs batches whose targets have 2 dimensions"),
        (["--model.cell", "cells.DrivenCell"], "--model.cell.drive must be given"),
        (["--model.optimizer", "Optimizer"], "--model.optimizer.defaults must be given"),
        (["--model.optimizer", "SparseAdam"], "SparseAdam does not support dense gradients"),
        (["--model.optimizer.lr", "abc"], "--model.optimizer.lr must be a number, got 'abc'"),
        (["--model.cell", ".."], "a class must be given by its name or its path package.module.Class, got '..'"),
        (["--model.cell", "exits.Cell"], "exits cannot be imported: SystemExit: 0"),
        (["--model.cell", "broken.Cell"], "broken cannot be imported: SyntaxError: invalid syntax"),
        (["--model.cell", "raises.Cell"], "raises cannot be imported: ZeroDivisionError: division by zero"),
        (["--seed_everything", "-1"], "-1 is not in bounds"),
        (["--collective_timeout", "inf"], "--collective_timeout must be at most 10000 minutes, got inf"),
        (
            ["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:01", "--model.lr_schedule", "cosine"],
            "lr_schedule cosine needs --trainer.max_epochs or --trainer.max_steps",
        ),
        (["--save_every", "0"], "--save_every must be above 0, got 0"),
        (["--data", "null"], "--data must be given"),
        (["--run_dir", "/proc/run"], "the run directory /proc/run cannot be written"),
        (["--run_dir", "a\nb\x1b[31m"], r"run_dir must not contain control characters, got 'a\nb\x1b[31m'"),
        (["--model.cell", "controls.Cell"], r"controls cannot be imported: ValueError: a\nb\x1b[31m"),
    ],
)
def test_refused_option_gives_one_line_and_status_2(options, message, capsys, monkeypatch):
    monkeypatch.syspath_prepend(".")
    for name, source in PLUGINS.items():
        Path(f"{name}.py").write_text(source)
    assert main(["fit", *SMALL, *SHORT, *options]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not Path("run/results.json").exists()


def test_errors_of_the_program_are_not_refusals():
    def error_of(function):
        with pytest.raises(Exception) as caught:  # noqa: PT011  # any exception
            function()
        return caught.value

    assert one_line_refusal(error_of(lambda: 1 / 0)) is None
    assert str(one_line_refusal(error_of(lambda: Path("none").read_text()))) == "none: No such file or directory"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config 'own.yaml' must contain blocks such as 'trainer:' and 'model:', got 'None'"),
        ("- 1", "must contain blocks such as 'trainer:' and 'model:', got '[1]'"),
        ("trainer: null", "--trainer must be a block of options, got None"),
        ("trainer: [1]", "--trainer must be a block of options, got [1]"),
        ("? [a, b]\n: 3", "config 'own.yaml' is not readable YAML: unhashable type: 'list'"),
        ("[" * 3000 + "]" * 3000, "config 'own.yaml' is nested too deeply"),
        ("a: &a [*a]", "its aliases expand to more than"),
        ("model:\n  class_path: SequenceClassifier\n  init_args: [1]", "must be a block of arguments, got [1]"),
        ("model:\n  class_path: 3", "class_path in config 'own.yaml' must be a text, got 3"),
        ("resume: run", "--resume must be given on the command line, but it is in own.yaml"),
    ],
)
def test_configuration_that_is_not_blocks_of_options_is_refused(content, message, capsys):
    Path("own.yaml").write_text(content)
    assert main(["fit", *SMALL, *SHORT, "--config", "own.yaml"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize("options", [["cells"], ["--help"], ["cells", "NoCell"]])
def test_full_output_gives_one_line_and_status_2(options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "app", *options]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: there is no cell" if "NoCell" in options else "error: No space left on device")


def test_event_file_that_cannot_be_written_gives_one_line_and_status_2(capfd):
    """TensorBoard writes it in a thread, whose traceback would precede the message."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        assert main(["fit", *SMALL, *SHORT]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.count("error: ") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_epochs", "0"], "nothing was trained"),
        (["--trainer.max_steps", "0"], "nothing was trained"),
        (["--trainer.limit_train_batches", "0"], "nothing was trained"),
        (["--trainer.limit_val_batches", "0"], "no validation was run"),
        (["--trainer.max_steps", "0", "--model.lr_schedule", "cosine"], "nothing was trained"),
        (["--trainer.check_val_every_n_epoch", "3"], "no validation was run"),
        (["--trainer.fast_dev_run", "true"], "no checkpoint and no results were written"),
    ],
)
def test_what_was_not_done_is_reported(options, message, capsys):
    assert main(["fit", *SMALL, *SHORT, *options]) == 0
    assert message in capsys.readouterr().out
    assert not Path("run/results.json").exists()


def test_run_without_test_batches_has_validation_results(capsys):
    assert main(["fit", *SMALL, *SHORT, "--trainer.limit_test_batches", "0"]) == 0
    assert "the test set was not read" in capsys.readouterr().out
    results = json.loads(Path("run/results.json").read_text())
    assert "validation" in results
    assert "test" not in results


def test_run_without_a_logger():
    assert main(["fit", *SMALL, *SHORT, "--trainer.logger", "false"]) == 0
    assert "test" in json.loads(Path("run/results.json").read_text())
    assert not Path("run/tensorboard").exists()


def test_several_configurations_name_the_run_and_report_dropped_arguments(capsys):
    Path("gru.yaml").write_text("model:\n  init_args:\n    cell:\n      class_path: cells.GRU\n")
    assert main(["fit", *SMALL[:-2], *SHORT, "--config", "gru.yaml"]) == 0
    (run,) = Path("runs/quickstart+gru").iterdir()
    assert run.name.startswith("GRU-seed0-")
    assert f"dropped from {QUICKSTART}: momentum, step_size (not an argument of GRU)" in capsys.readouterr().out
