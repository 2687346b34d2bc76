"""Reading what a study has produced: plain files only, no queue."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.lab.arms import Arm
from app.lab.checked import Checked
from app.lab.directory import Outcome, Phase, StudyDirectory
from app.lab.space import Value
from app.lab.study import Metric, Study


@dataclass(frozen=True)
class Run:
    """A planned run and what came of it.

    Attributes:
        name: Its name.
        path: Its run directory.
        phase: Whether it tunes or reports.
        seed: Its seed.
        number: Count of its point.
        values: Values of what its arm tunes.
        outcome: How it ended; None if it has not.
        results: Its ``results.json``, if it is complete.
        curves: One row for each validation.
    """

    name: str
    path: Path
    phase: Phase
    seed: int
    number: int
    values: dict[str, Value]
    outcome: Outcome | None
    results: dict[str, Any] | None
    curves: list[dict[str, float]]

    @property
    def status(self) -> str:
        """How it ended, or ``unfinished``."""
        return self.outcome.status if self.outcome else "unfinished"

    def metric(self, part: str, name: str) -> float | None:
        """Return a metric of ``validation`` or ``test``, or None."""
        value = (self.results or {}).get(part, {}).get(name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class ArmResults:
    """The runs of one arm."""

    arm: Arm
    tuning: list[Run]
    reporting: list[Run]

    @property
    def label(self) -> str:
        """Name of the arm in tables."""
        return self.arm.label

    @cached_property
    def best(self) -> dict[str, Value] | None:
        """Values of the reported configuration; None before it is chosen."""
        return self.reporting[0].values if self.reporting else None

    def reported(self, part: str, metric: str) -> dict[int, float]:
        """Return a metric of the complete reporting runs, by seed."""
        found = {run.seed: run.metric(part, metric) for run in self.reporting}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True)
class Gathered:
    """Everything that a report is made of.

    Attributes:
        study: The study.
        path: Its directory.
        choose_by: Validation metric that chose the hyperparameters.
        outcome: Test metric that is compared.
        arms: The runs of each arm.
    """

    study: Study
    path: Path
    choose_by: Metric
    outcome: Metric
    arms: list[ArmResults]

    @property
    def baseline(self) -> ArmResults:
        """The arm that the others are compared with: the first."""
        return self.arms[0]

    def arm(self, label: str) -> ArmResults:
        """Return the arm of a label."""
        return next(results for results in self.arms if results.label == label)

    @property
    def runs(self) -> list[Run]:
        """All runs, each arm's tuning before its reporting."""
        return [run for results in self.arms for run in [*results.tuning, *results.reporting]]


def gather(study: Study, directory: StudyDirectory) -> Gathered:
    """Return what a study has produced so far.

    Raises:
        UserError: if it was never started, or if the directory has other cells.
    """
    found = Checked.read(directory.path / "checked.json")
    if found is None:
        raise UserError(f"there is no study in {directory.path}; start it with: python -m app sweep {study.path}")
    checked, _ = found
    wanted, there = [cell.label for cell in study.cells], [arm.label for arm in checked.arms if arm.parent is None]
    if wanted != there:
        raise UserError(
            f"{directory.path} has runs of {', '.join(there)}, but {study.path} compares {', '.join(wanted)}; "
            "name another directory by --dir, or start the new cells with sweep"
        )
    arms = [
        ArmResults(arm, _runs(directory, arm, "tuning"), _runs(directory, arm, "reporting")) for arm in checked.arms
    ]
    return Gathered(study, directory.path, checked.choose_by, checked.outcome, arms)


def _runs(directory: StudyDirectory, arm: Arm, phase: Phase) -> list[Run]:
    runs = []
    for planned in directory.planned(arm.folder, phase):
        outcome = directory.outcome(planned.run)
        complete = outcome is not None and outcome.status == "complete"
        runs.append(
            Run(
                planned.run,
                directory.run(planned.run),
                phase,
                planned.seed,
                planned.number,
                planned.values,
                outcome,
                directory.results(planned.run) if complete else None,
                directory.curves(planned.run),
            )
        )
    return runs


@dataclass(frozen=True)
class Published:
    """A published number.

    Attributes:
        mean: The number, in the unit of ``results.json``.
        sd: Its standard deviation, if it was published.
        source: Where it was published.
    """

    mean: float
    sd: float | None
    source: str


def published(arm: Arm, metric: str) -> Published | None:
    """Return the published number of the row that an arm repeats, from ``configs/results.csv``."""
    import app

    path = Path(app.__file__).parents[1] / "configs/results.csv"
    if arm.published is None or not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if _is_final(row, arm.published, metric)]
    if not rows:
        return None
    row = rows[0]
    scale = 0.01 if row["unit"] == "%" else 1.0
    sd = scale * float(row["sd"]) if row["sd"] else None
    return Published(scale * float(row["published"]), sd, row["source"])


def _is_final(row: dict[str, str], config: str, metric: str) -> bool:
    whole_run = row["split"].endswith("test") and not row["epoch"]
    return row["config"] == config and row["metric"] == metric and whole_run and bool(row["published"])


def common_seeds(first: ArmResults, second: ArmResults, metric: str) -> tuple[list[float], list[float]]:
    """Return the test metrics of two arms at the seeds that both have completed, in the same order."""
    a, b = first.reported("test", metric), second.reported("test", metric)
    seeds = sorted(a.keys() & b.keys())
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]


def tuning_values(results: ArmResults, metric: Metric) -> list[tuple[dict[str, Value], float]]:
    """Return values and mean validation metric of each tuned point; one that is not complete is infinitely bad."""
    worst = float("-inf") if metric.mode == "max" else float("inf")
    points: dict[int, list[Run]] = {}
    for run in results.tuning:
        if run.outcome is not None:
            points.setdefault(run.number, []).append(run)
    found = []
    for runs in points.values():
        values = [run.outcome.value for run in runs if run.outcome and run.outcome.value is not None]
        found.append((runs[0].values, sum(values) / len(values) if len(values) == len(runs) else worst))
    return found


def finite(points: Sequence[tuple[dict[str, Value], float]]) -> list[tuple[dict[str, Value], float]]:
    """Return the points that are complete."""
    return [(values, value) for values, value in points if abs(value) != float("inf")]
