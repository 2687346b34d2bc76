"""Study files: what is compared, what is tuned, with which budget and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.errors import UserError
from app.lab.space import Dimension

Mode = Literal["max", "min"]
Sampler = Literal["random", "independent", "grid", "tpe"]
Match = Literal["width", "parameters", "flops"]
HIGHER_IS_BETTER = ("accuracy", "stoi", "pesq", "snr")  # parts of the names of such metrics


@dataclass(frozen=True)
class Metric:
    """A metric, and whether it should be high or low."""

    name: str
    mode: Mode

    def better(self, value: float, other: float) -> bool:
        """Return whether ``value`` is better than ``other``."""
        return value > other if self.mode == "max" else value < other


@dataclass(frozen=True)
class Target:
    """A value of a validation metric; the report says what it costs to reach it."""

    metric: Metric
    value: float

    def reached(self, value: float) -> bool:
        """Return whether ``value`` is as good as the target."""
        return value >= self.value if self.metric.mode == "max" else value <= self.value

    def __str__(self) -> str:
        return f"validation {self.metric.name} {'>=' if self.metric.mode == 'max' else '<='} {self.value:g}"


@dataclass(frozen=True)
class Compared:
    """One entry of ``cells``: a cell with its own hyperparameters.

    Attributes:
        label: Its name in tables.
        config: Configuration files used instead of those of the study; empty: those of the study.
        cell: Name or path of the class; None: the cell of the configuration.
        arguments: Fixed arguments of the cell.
        options: Fixed options of ``fit``.
        dimensions: What is tuned for it, the shared dimensions first.
    """

    label: str
    config: tuple[str, ...]
    cell: str | None
    arguments: dict[str, Any]
    options: dict[str, Any]
    dimensions: tuple[Dimension, ...]


@dataclass(frozen=True)
class Study:
    """The contents of a study file.

    Attributes:
        name: Name of the study, by default that of the file.
        path: The file.
        config: Base configuration files, merged in this order.
        cells: What is compared, the baseline first.
        options: Fixed options of ``fit``, for every cell.
        trials: Points tried for each cell; None: all points of the grid.
        epochs, steps: Length of a run, instead of the configuration's; at most one of them.
        sampler: Where the points come from.
        tuning_seeds: Seeds of the runs that choose the hyperparameters.
        reporting_seeds: Seeds of the runs whose results are reported.
        match: What is made equal: ``hidden_size``, parameters of the cell, or its FLOPs.
        controls: Whether the controls of momentum and adaptive cells are added.
        choose_by: Validation metric that chooses hyperparameters; None: the task's own.
        outcome: Test metric that is compared; None: that of ``choose_by``.
        targets: Values whose cost is reported.
        pruning: Whether successive halving stops hopeless trials.
    """

    name: str
    path: Path
    config: tuple[str, ...]
    cells: tuple[Compared, ...]
    options: dict[str, Any]
    trials: int | None
    epochs: int | None
    steps: int | None
    sampler: Sampler
    tuning_seeds: tuple[int, ...]
    reporting_seeds: tuple[int, ...]
    match: Match
    controls: bool
    choose_by: Metric | None
    outcome: Metric | None
    targets: tuple[Target, ...]
    pruning: bool


class StudyError(UserError):
    """Everything that is wrong with a study file.

    Args:
        path: The file.
        mistakes: One line for each mistake.
    """

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        self.details = tuple(dict.fromkeys(mistakes))
        count = f"{len(self.details)} mistakes" if len(self.details) > 1 else "a mistake"
        super().__init__(f"{path} has {count}:")


def find_file(given: str, kind: str) -> Path:
    """Return the path of a study or configuration file: as given, or as packaged with the program.

    Args:
        given: The path.
        kind: What the file is, for the message.

    Raises:
        UserError: if there is no such file.
    """
    import app

    packaged = Path(app.__file__).parents[1]
    for path in (Path(given), packaged / given):
        if path.is_file():
            return path
    from cells.validation import closest_first  # needs torch, so only for a message

    known = [str(path.relative_to(packaged)) for path in (packaged / "configs").rglob("*.yaml")]
    raise UserError(
        f"{kind} must be a file, got {given!r}; those of this program, closest first: {closest_first(given, known)}"
    )


def mode_of(metric: str) -> Mode:
    """Return whether a metric should be high or low, by its name."""
    return "max" if any(part in metric.lower() for part in HIGHER_IS_BETTER) else "min"
