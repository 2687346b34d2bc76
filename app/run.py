"""The run directory: everything of a run in one place, and what the user is told of it.

RUN/config.yaml             the whole configuration: `fit --config` repeats the run
RUN/checkpoints/best.ckpt   best by the task's validation metric
RUN/checkpoints/last.ckpt   after the last whole epoch, or where the run was interrupted
RUN/tensorboard/            events
RUN/results.json            figures and circumstances, for later tools
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.files import replacing


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
    def results(self) -> Path:
        return self.path / "results.json"

    @classmethod
    def new(cls, path: str | None, config_name: str) -> RunDirectory:
        """The directory of a new run: ``path``, or ``runs/<config name>/<time>``.

        Raises:
            UserError: if a run lies there already, or the folder cannot be made.
        """
        run = cls(Path(path) if path else Path("runs") / config_name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        if run.config.exists() or run.checkpoints.exists():
            raise UserError(f"{run.path} holds a run already; name another folder by --run_dir, or remove this one")
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
            flat[name] = value["class_path"].rpartition(".")[2]
            flat |= {f"{name}.{own}": given for own, given in value["init_args"].items() if given is not None}
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


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A plain text table with aligned columns: numbers to the right, text to the left."""
    cells = [[f"{value:.4f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    lines = [list(header), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [all(re.fullmatch(r"[-+]?[\d.,]+", row[column]) for row in cells) for column in range(len(widths))]

    def line(texts: list[str]) -> str:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(lines[0]), rule, *map(line, cells)])


def metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Parts of the data down, their metrics across."""
    names = list(dict.fromkeys(name for part in metrics.values() for name in part))
    return table(["", *names], [[part, *(values.get(name, "-") for name in names)] for part, values in metrics.items()])


def say(text: str) -> None:
    """Tell the user something on standard output, at once."""
    print(text, file=sys.stdout, flush=True)
