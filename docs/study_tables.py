"""Sphinx directives for the tables of a study, computed from docs/findings/data/STUDY.csv, which ``report`` writes.

The values are those of the runs with reporting seeds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import takewhile
from math import nan
from pathlib import Path
from statistics import geometric_mean

from docutils import nodes
from docutils.parsers.rst.directives.tables import CSVTable
from sphinx.application import Sphinx

STUDIES = Path(__file__).parent / "findings" / "data"

Row = dict[str, str]


class ComputedTable(CSVTable):
    """A table whose rows are computed from a file of docs/findings/data."""

    def show(self, rows: list[list[str]], path: Path) -> list[nodes.Node]:
        """Return the table with these rows, the header first."""
        self.options["header-rows"] = 1
        table = io.StringIO()
        csv.writer(table).writerows(rows)
        self.content = self.content[:0]
        for line in table.getvalue().splitlines():
            self.content.append(line, str(path))
        self.state.document.settings.record_dependencies.add(str(path))
        return super().run()


class StudyTable(ComputedTable):
    """A table of a study. The first argument is the study; subclasses say what the second one is."""

    required_arguments = 2
    optional_arguments = 0

    def run(self) -> list[nodes.Node]:
        study, what = self.arguments
        self.arguments = []
        lines = [line for line in self.content if line.strip()]
        return self.show(self.rows(reporting_runs(study), what, lines), STUDIES / f"{study}.csv")

    def rows(self, runs: list[Row], what: str, lines: Sequence[str]) -> list[list[str]]:
        """Return the rows of the table, the header first."""
        raise NotImplementedError


class StudyResults(StudyTable):
    """``{study-results} STUDY METRIC``: what was chosen for each cell, and mean and standard deviation over seeds."""

    def rows(self, runs: list[Row], what: str, lines: Sequence[str]) -> list[list[str]]:
        found = [["cell", "parameters", "chosen", "seeds", f"validation {what}", f"test {what}"]]
        for arm, own in by_arm(runs).items():
            parts = [mean_sd(list(measured(own, f"{part}/{what}").values())) for part in ("validation", "test")]
            count = len(measured(own, f"test/{what}"))
            found.append([arm, f"{int(own[0]['parameters']):,}", chosen(own[0]), f"{count} of {len(own)}", *parts])
        return found


class StudyComparisons(StudyTable):
    """``{study-comparisons} STUDY METRIC``: differences of the test metric, paired by seed.

    The lines of the directive name pairs, ``ARM - ARM``. Without them, each cell is compared with the first one and
    with its controls.
    """

    def rows(self, runs: list[Row], what: str, lines: Sequence[str]) -> list[list[str]]:
        from app.lab.statistics import holm, paired
        from app.lab.tables import number

        arms = by_arm(runs)
        values = {arm: measured(own, f"test/{what}") for arm, own in arms.items()}
        pairs = [tuple(line.split(" - ")) for line in lines] or default_pairs(arms)
        differences = []
        for a, b in pairs:
            seeds = sorted(values[a].keys() & values[b].keys())
            differences.append(paired([values[b][seed] for seed in seeds], [values[a][seed] for seed in seeds]))
        adjusted = holm([difference.p for difference in differences])
        found = [["difference", "pairs", "mean", "95 % interval", "p", "smallest p", "Holm p"]]
        for (a, b), difference, corrected in zip(pairs, differences, adjusted, strict=True):
            low, high = difference.interval or (nan, nan)
            p_values = [number(p, 2) for p in (difference.p, difference.smallest_p, corrected)]
            interval = f"[{number(low, 2)}, {number(high, 2)}]"
            found.append([f"{a} - {b}", str(difference.count), number(difference.mean, 2), interval, *p_values])
        return found


class StudyCosts(StudyTable):
    """``{study-costs} STUDY "TARGET"``: medians of what it cost to reach a target, named as in the CSV file."""

    final_argument_whitespace = True

    def rows(self, runs: list[Row], what: str, lines: Sequence[str]) -> list[list[str]]:
        from app.lab.statistics import median_with_unreached
        from app.lab.tables import number

        found = [["cell", "reached", "epochs", "seconds", "TFLOPs", "parameters"]]
        for arm, own in by_arm(runs).items():
            costs = []
            for unit, scale in (("epochs", 1.0), ("seconds", 1.0), ("FLOPs", 1e-12)):
                column = f"{what}: {unit}"
                if column not in own[0]:
                    raise ValueError(f"{column} is no column of the study; the columns are {', '.join(own[0])}")
                costs.append([scale * float(run[column]) if run[column] else None for run in own])
            reached = sum(cost is not None for cost in costs[0])
            medians = [number(median_with_unreached(values), 3) for values in costs]
            found.append([arm, f"{reached} of {len(own)}", *medians, f"{int(own[0]['parameters']):,}"])
        return found


class MomentumTheory(ComputedTable):
    """``{momentum-theory}``: the table of ``python -m benchmarks.momentum_theory``, averaged over seeds."""

    optional_arguments = 0

    def run(self) -> list[nodes.Node]:
        path = STUDIES / "momentum_theory.csv"
        with path.open(encoding="utf-8", newline="") as file:
            return self.show(self.rows(list(csv.DictReader(file))), path)

    def rows(self, runs: list[Row]) -> list[list[str]]:
        """Return the rows of the table, the header first."""
        names = {"measured": "back-propagated", "published": "published product", "through_drive": "through the drive"}
        found = [["momentum", "training", "seeds", *names.values()]]
        for arm, training in dict.fromkeys((run["arm"], run["training"]) for run in runs):
            own = [run for run in runs if (run["arm"], run["training"]) == (arm, training)]
            means = [f"{geometric_mean([float(run[name]) for run in own]):.1e}" for name in names]
            found.append([own[0]["momentum"], training, str(len(own)), *means])
        return found


def reporting_runs(study: str) -> list[Row]:
    """Return the rows of the runs with reporting seeds."""
    with (STUDIES / f"{study}.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["phase"] == "reporting"]


def by_arm(runs: list[Row]) -> dict[str, list[Row]]:
    """Return the runs of each arm."""
    found: dict[str, list[Row]] = {}
    for run in runs:
        found.setdefault(run["arm"], []).append(run)
    return found


def measured(runs: list[Row], column: str) -> dict[int, float]:
    """Return a metric by seed, of the runs that have it."""
    return {int(run["seed"]): float(run[column]) for run in runs if run[column]}


def chosen(run: Row) -> str:
    """Return the tuned values of a run, which are the columns between the seed and the status."""
    from app.lab.tables import point

    names = list(run)[list(run).index("seed") + 1 :]
    values = {name: run[name] for name in takewhile(lambda name: name != "status", names) if run[name]}
    return point({name: float(value) if _is_number(value) else value for name, value in values.items()})


def default_pairs(arms: dict[str, list[Row]]) -> list[tuple[str, ...]]:
    """Return the pairs of each cell with the first one, then of each cell with its controls."""
    first, *others = arms
    parents = {arm: own[0]["parent"] for arm, own in arms.items()}
    pairs: list[tuple[str, ...]] = [(arm, first) for arm in others if not parents[arm]]
    return pairs + [(parents[arm], arm) for arm in others if parents[arm]]


def mean_sd(values: list[float]) -> str:
    """Return ``mean ± sd``, or a dash without values."""
    from app.lab import tables
    from app.lab.statistics import summary

    return tables.mean_sd(summary(values)) if values else tables.DASH


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("study-results", StudyResults)
    app.add_directive("study-comparisons", StudyComparisons)
    app.add_directive("study-costs", StudyCosts)
    app.add_directive("momentum-theory", MomentumTheory)
    return {"parallel_read_safe": True}
