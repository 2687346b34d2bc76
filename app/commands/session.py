"""What ``fit``, ``validate``, ``test``, ``predict`` and ``export`` have in common: set-up, checks, and how they end."""

from __future__ import annotations

import logging
import os
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentError
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only

import cells
from app.commands import console
from app.commands.error_messages import plain_message
from app.commands.parsing import CommandLine
from app.errors import DivergenceError, LostProcessError, Stopped, UserError
from app.runs.checkpoint_files import check_fits, read_checkpoint
from app.runs.configuration import with_existing_configs, with_run_config
from app.runs.distributed import FIRST, end_with_first
from app.runs.resume import check_complete, check_unchanged, with_resumed_run
from app.runs.run_directory import RunDirectory
from app.tasks import Task
from cells.denormals import denormal_setting_restored
from datamodules import DataError, DataModule

IGNORED_WARNINGS = (
    "`isinstance(treespec, LeafSpec)` is deprecated",  # Lightning 2.6 under torch 2.11
    "does not have many workers",  # batches come from memory: workers would only copy them
    "The given buffer is not writable",  # torch.export.load, of a file that is only read
    "Be aware that when using `ckpt_path`",  # an evaluation needs no callback of the training
    "The number of training batches",  # a small data set, logged once an epoch anyway
    "You're resuming from a checkpoint that ended before the epoch",  # the data module restores its position
    "it is recommended to use `Trainer(devices=1",  # to evaluate each example once, which the data modules ensure
    "You are using a custom batch sampler",  # in predict: it yields every example once
)
echo = rank_zero_only(console.echo)  # once for all processes


@denormal_setting_restored()
def run(command: str, options: Sequence[str], act: Callable[[CommandLine], None]) -> None:
    """Parse ``options``, build the task, the data and the Trainer, and call ``act`` with them.

    Raises:
        UserError: for invalid input, a file that cannot be written, or a loss or weight that is not finite.
        Stopped: if a signal stopped the training after a checkpoint.
        KeyboardInterrupt: if the user interrupted anything else.
    """
    _quieten()
    cells.load_entry_points()
    given = with_existing_configs(options)
    arguments = with_resumed_run(given) if command == "fit" else with_run_config(command, given)
    try:
        line = CommandLine(command, arguments)
        end_with_first(_is_launched(line), LostProcessError.status)
        _check_checkpoint(line)
        with _reported(line):
            act(line)
    except (ArgumentError, DataError) as error:
        message = plain_message(str(error))
        named = re.match(r"--[\w.]+", message)
        if arguments != given and named and not any(option.startswith(named[0]) for option in given):
            message += f". It is in {arguments[1]}, which another version of the program may have written."
        raise UserError(message) from error


def load_trained(path: Path, config: str | None = None) -> tuple[Task, DataModule]:
    """Load the task of a checkpoint with its weights, and set up its data for validation.

    Args:
        path: The checkpoint.
        config: The configuration; None: that of the run that wrote the checkpoint.

    Raises:
        UserError: if the checkpoint, the configuration or the data cannot be read, or they do not fit each other.
    """
    options = ["--ckpt_path", str(path), *(["--config", config] if config else [])]
    _quieten()
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # nothing is run, so devices and seeds are of no interest
    cells.load_entry_points()
    try:
        line = CommandLine("validate", with_run_config("validate", with_existing_configs(options)))
        checkpoint = read_checkpoint(path)
        check_fits(checkpoint, line.model, path, ignored=line.model.training_arguments)
        line.model.load_state_dict(checkpoint["state_dict"])
        line.datamodule.prepare_data()
        line.datamodule.setup("validate")
    except (ArgumentError, DataError) as error:
        raise UserError(plain_message(str(error))) from error
    return line.model, line.datamodule


def resume_command(run: RunDirectory | None) -> str:
    """Return how to resume ``run``, to be appended to a message."""
    return f". Resume with:  python -m app fit --resume {run.path}" if run else ""


def _quieten() -> None:
    threading.excepthook = _report_thread
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{re.escape(message)}")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not re.search("Tip: For seamless|callbacks returned in", record.getMessage())
    )


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Report an exception of a thread, except of TensorBoard's: the main thread raises it again at its next write."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(failed.exc_traceback)]
    if not any(module.startswith("tensorboard.") for module in modules):
        threading.__excepthook__(failed)


def _check_checkpoint(line: CommandLine) -> None:
    """Refuse a checkpoint or a run that contradicts the options.

    Raises:
        UserError: with the first differences.
    """
    if line.options.resume:
        check_unchanged(RunDirectory(Path(line.options.resume)), line.as_yaml(), line.model, line.datamodule)
    if line.options.ckpt_path:
        path = Path(line.options.ckpt_path)
        ignored = line.model.resumable_arguments if line.options.resume else line.model.training_arguments
        checkpoint = read_checkpoint(path)
        check_fits(checkpoint, line.model, path, ignored)
        if line.options.resume:
            check_complete(checkpoint, path, line.datamodule)


def _is_launched(line: CommandLine) -> bool:
    """Return whether Lightning started this process from the first process of the machine."""
    environment = getattr(line.trainer.strategy, "cluster_environment", None)
    return line.trainer.local_rank > 0 and isinstance(environment, LightningEnvironment) and FIRST in os.environ


@contextmanager
def _reported(line: CommandLine) -> Iterator[None]:
    """Add to the exceptions that end a training what the user can do next."""
    try:
        yield
    except Stopped as stopped:
        echo(f"{stopped}{resume_command(line.run_directory)}")
        if not _is_launched(line):  # otherwise Lightning would see a failed process and kill the first one
            raise
    except DivergenceError as error:
        last = line.run_directory.last if line.run_directory else None
        kept = f"The last checkpoint is {last}." if last and last.exists() else "No checkpoint was written."
        raise DivergenceError(f"{error}. {kept}") from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits after Ctrl-C
            raise KeyboardInterrupt from error
        raise UserError(f"the task, the cell or the data called sys.exit({error.code})") from error
    except RuntimeError as error:
        if line.trainer.world_size == 1 or not re.search("gloo|NCCL|Broken pipe|by peer", str(error)):
            raise
        raise LostProcessError(
            f"rank {line.trainer.global_rank} of {line.trainer.world_size} lost another process"
            f"{resume_command(line.run_directory)}"
        ) from error
