"""``fit --resume RUN``: the options of the stopped run, and which of them may change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from app.errors import UserError
from app.runs.checkpoint_files import flat, read_checkpoint
from app.runs.configuration import CONFIG_FLAGS, check_config, given
from app.runs.run_directory import RunDirectory
from app.tasks import Task
from datamodules import DataModule

LIMITS = ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")
# options of the command line and the trainer that do not change the numbers
OPTIONS = (
    "observe",
    "probe_every",
    "output",
    "save_every",
    "weights_only",
    "collective_timeout",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
)


RESTORED = ("loops", "optimizer_states", "callbacks", "random_states")


def with_resumed_run(options: list[str]) -> list[str]:
    """Return ``options`` of ``fit`` with the configuration and the last checkpoint of the run of ``--resume``.

    Raises:
        UserError: if there is no such run, its checkpoint is missing or damaged, or the options name another
            configuration or run directory.
    """
    folder = given(options, "--resume")
    if not folder:
        if checkpoint := given(options, "--ckpt_path"):
            raise UserError(
                f"fit accepts --ckpt_path ({checkpoint!r}) only with --resume RUN, to resume from another checkpoint "
                "of that run than last.ckpt"
            )
        return options
    run = RunDirectory(Path(folder))
    for flag in (*CONFIG_FLAGS, "--run_dir"):
        if value := given(options, flag):
            raise UserError(
                f"{flag} ({value!r}) cannot be combined with --resume, which takes everything from the run directory"
            )
    if not run.config.is_file():
        raise UserError(f"resume: {folder!r} is not a run directory ({run.config} does not exist)")
    check_config(run.config)
    checkpoint = given(options, "--ckpt_path") or str(run.last)
    if Path(checkpoint).resolve().parent != run.checkpoints.resolve():
        raise UserError(f"ckpt_path {checkpoint!r} is not a checkpoint of the run {folder}")
    try:
        read_checkpoint(Path(checkpoint))
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. {_offer(run, Path(checkpoint))}") from error
    return ["--config", str(run.config), *options, "--ckpt_path", checkpoint]


def check_complete(checkpoint: Mapping[str, Any], path: Path, data: DataModule) -> None:
    """Check that a checkpoint has every entry that a resumed run needs; Lightning ignores that some are empty.

    Raises:
        UserError: with the missing entries.
    """
    missing = [name for name in (*RESTORED, type(data).__qualname__) if checkpoint.get(name, {}) in ({}, [])]
    if "lr_schedulers" not in checkpoint:  # which is empty for a constant learning rate
        missing.append("lr_schedulers")
    if missing:
        raise UserError(
            f"ckpt_path '{path}' must contain {', '.join(missing)} to be resumed. Choose another checkpoint of the run."
        )


def _offer(run: RunDirectory, damaged: Path) -> str:
    """Return how to resume from an undamaged checkpoint of the run, if it has one."""
    for path in (run.last, run.previous, run.best):
        try:
            step = read_checkpoint(path)["global_step"] if path != damaged else None
        except UserError:
            continue
        if step is not None:
            return f"{path} is undamaged (step {step}). Add --ckpt_path {path}."
    return "The run has no other undamaged checkpoint."


def check_unchanged(run: RunDirectory, asked: str, task: Task, data: DataModule) -> None:
    """Check that a configuration agrees with the one that the run was started with.

    Args:
        run: The run.
        asked: The configuration that results from the run's own and the command line, as YAML.
        task: Its task, which declares which of its arguments may change.
        data: Its data module, which declares the same.

    Raises:
        UserError: with the first differences.
    """
    began: Mapping[str, Any] = flat(yaml.safe_load(run.config.read_text(encoding="utf-8")))
    now: Mapping[str, Any] = flat(yaml.safe_load(asked))
    spanned = began.get("model.init_args.lr_schedule", "constant") != "constant"
    free = [
        *OPTIONS,
        *(f"model.init_args.{name}" for name in task.resumable_arguments),
        *(f"data.init_args.{name}" for name in data.resumable_arguments),
        *(f"trainer.{limit}" for limit in LIMITS if not spanned),
    ]
    # an empty entry may have become a class with arguments; an entry that only this version knows has its default
    names = [*began, *(name for name in now if any(name.startswith(f"{old}.") for old in began))]
    differences = [
        f"{name} is {now.get(name)!r}, but {began.get(name)!r} in the run"
        for name in names
        if now.get(name) != began.get(name) and not f"{name}.".startswith(tuple(f"{prefix}." for prefix in free))
    ]
    if differences:
        accepted = (
            f"the schedule {began['model.init_args.lr_schedule']} spans the whole run, so no limit may change"
            if spanned
            else f"of the options that affect the numbers, only the trainer's {', '.join(LIMITS)} may change"
        )
        raise UserError(f"the options contradict the run {run.path}: {'; '.join(differences[:3])} ({accepted})")
