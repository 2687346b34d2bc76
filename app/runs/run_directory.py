"""The run directory: everything of a run in one place, and what the user is told of it.

RUN/config.yaml             the whole configuration: `fit --config` repeats the run
RUN/checkpoints/best.ckpt   best by the task's validation metric
RUN/checkpoints/last.ckpt   after the last whole epoch, or where the run was stopped: `fit --resume RUN` goes on from it
RUN/checkpoints/previous.ckpt   the one before it
RUN/tensorboard/            events
RUN/gradients.npz           gradients through time, as arrays
RUN/results.json            figures and circumstances, for later tools
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from app.errors import UserError
from datamodules.files import replacing

SHARED_PATH = "APP_RUN_DIRECTORY"  # environment variable by which the processes of one run share its directory


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        return self.checkpoints / "previous.ckpt"

    @property
    def gradients(self) -> Path:
        return self.path / "gradients.npz"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @classmethod
    def new(cls, path: str | None, config_name: str) -> RunDirectory:
        """The directory of a new run: ``path``, or ``runs/<config name>/<time>``.

        The first process makes it; the others, which Lightning starts from the first, take it over. A run that was
        stopped before its first checkpoint may be started again.

        Raises:
            UserError: if a run lies there already, or the folder cannot be made.
        """
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # Lightning sets it
            if not path and SHARED_PATH not in os.environ:
                raise UserError("several processes that were started from outside need a common --run_dir DIR")
            return cls(Path(path or os.environ[SHARED_PATH]))
        run = cls(Path(path) if path else Path("runs") / config_name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        os.environ[SHARED_PATH] = str(run.path)
        if run.checkpoints.exists():
            raise UserError(
                f"{run.path} holds a run already; go on with it by --resume {run.path}, name another folder by "
                "--run_dir, or remove this one"
            )
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the run directory {run.path} cannot be made: {error.strerror}") from error
        return run

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunDirectory:
        """The run that wrote ``checkpoint``."""
        return cls(checkpoint.parent.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` is at any time the old file or the new one, never a half of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_results(run: RunDirectory, results: Mapping[str, Any]) -> None:
    """Write ``results.json``."""
    write_text(run.results, json.dumps(results, indent=2) + "\n")


def split_metrics(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """``{"test/accuracy": 0.9}`` as ``{"test": {"accuracy": 0.9}}``."""
    parts: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        part, _, metric = name.partition("/")
        parts.setdefault(part, {})[metric] = float(value)
    return parts


def flat_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """A task's hyperparameters as columns of a table: ``cell``, ``cell.momentum``, .., without what is not set."""
    flat: dict[str, Any] = {}
    for name, value in hyperparameters.items():
        if isinstance(value, Mapping):
            if "class_path" in value:
                flat[name] = value["class_path"].rpartition(".")[2]
            arguments = value.get("init_args", value)  # a group of arguments has no class
            flat |= {f"{name}.{own}": given for own, given in arguments.items() if given is not None}
        elif value is not None and not name.startswith("_"):
            flat[name] = value
    return flat


def versions() -> dict[str, str]:
    """Versions of Python, this program and the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in ("momentum-rnn", "torch", "pytorch-lightning", "torchmetrics", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
