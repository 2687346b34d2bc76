"""``RUN/results.json``: the metrics of a run and what they depend on."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from app.runs.run_directory import RunDirectory, write_text


def write_results(run: RunDirectory, results: Mapping[str, Any]) -> None:
    """Write ``results.json``."""
    write_text(run.results, json.dumps(results, indent=2) + "\n")


def split_metrics(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return ``{"test/accuracy": 0.9}`` as ``{"test": {"accuracy": 0.9}}``."""
    splits: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        split, _, metric = name.partition("/")
        splits.setdefault(split, {})[metric] = float(value)
    return splits


def flat_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a task as columns ``cell``, ``cell.momentum``, .., without those that are None."""
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
    """Return the versions of Python, of this program, and of the packages that determine the numbers."""
    found = {"python": platform.python_version()}
    for package in ("momentum-rnn", "torch", "pytorch-lightning", "torchmetrics", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
