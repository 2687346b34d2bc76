"""``python -m app validate`` and ``test``: metrics of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from app.commands.console import metrics_table
from app.commands.parsing import CommandLine
from app.commands.session import echo, run
from app.runs.results import split_metrics


def validate(options: Sequence[str]) -> None:
    """Run the command ``validate``."""
    run("validate", options, lambda line: _print_metrics(line, "validate"))


def test(options: Sequence[str]) -> None:
    """Run the command ``test``."""
    run("test", options, lambda line: _print_metrics(line, "test"))


def evaluate(line: CommandLine, on: Literal["validate", "test"], checkpoint: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of a checkpoint on the validation or test data, by split; none if the trainer runs none."""
    loop = getattr(line.trainer, on)
    metrics = loop(line.model, line.datamodule, ckpt_path=str(checkpoint), weights_only=True, verbose=False)
    return split_metrics(metrics[0]) if metrics else {}


def _print_metrics(line: CommandLine, on: Literal["validate", "test"]) -> None:
    metrics = evaluate(line, on, Path(line.options.ckpt_path))
    echo(metrics_table(metrics) if metrics else "nothing was evaluated: the limits of the trainer allow no batch")
