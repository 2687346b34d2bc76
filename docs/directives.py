"""Sphinx directives that compute what pages show: help of commands, rows of configs/results.csv, tables of studies."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.parsers.rst.directives.tables import CSVTable
from sphinx.application import Sphinx

RESULTS = Path(__file__).parents[1] / "configs" / "results.csv"
STUDIES = Path(__file__).parent / "findings" / "data"


class CommandHelp(Directive):
    """``{command-help} fit`` shows the output of ``python -m app fit --help``; without a command, of ``--help``."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        from app.commands.main import main

        output = io.StringIO()
        wide = mock.patch.dict(os.environ, COLUMNS="100")
        with wide, contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main([*self.arguments, "--help"])
        text = output.getvalue().strip()
        return [nodes.literal_block(text, text, language="text")]


class Results(CSVTable):
    """``{results} configs/mnist`` shows the rows of configs/results.csv whose configuration starts like that.

    Published and measured values are in two columns, so that no reader takes one for the other.
    """

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        prefix = self.arguments.pop() if self.arguments else ""
        self.options["header-rows"] = 1
        with RESULTS.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["config"].startswith(prefix)]
        table = io.StringIO()
        csv.writer(table).writerows([HEADER, *map(_table_row, rows)])
        for line in table.getvalue().splitlines():
            self.content.append(line, str(RESULTS))
        self.state.document.settings.record_dependencies.add(str(RESULTS))
        return super().run()


class StudyTable(CSVTable):
    """A table of a study, computed from the rows of its runs in docs/findings/data, written by ``report``.

    The arguments are the name of the study and the test metric. The values are those of the reporting seeds.
    """

    required_arguments = 2
    optional_arguments = 0

    def run(self) -> list[nodes.Node]:
        study, metric = self.arguments
        self.arguments = []
        self.options["header-rows"] = 1
        path = STUDIES / f"{study}.csv"
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["phase"] == "reporting"]
        table = io.StringIO()
        csv.writer(table).writerows(self.rows(rows, metric))
        for line in table.getvalue().splitlines():
            self.content.append(line, str(path))
        self.state.document.settings.record_dependencies.add(str(path))
        return super().run()

    def rows(self, runs: list[dict[str, str]], metric: str) -> list[list[str]]:
        """Return the rows of the table, the header first."""
        raise NotImplementedError


class StudyResults(StudyTable):
    """``{study-results} NAME METRIC`` shows mean and standard deviation of each arm."""

    def rows(self, runs: list[dict[str, str]], metric: str) -> list[list[str]]:
        from app.lab.statistics import summary
        from app.lab.tables import mean_sd

        found = [["cell", "parameters", "seeds", f"test {metric}"]]
        for arm, values in by_arm(runs, metric).items():
            parameters = next(int(run["parameters"]) for run in runs if run["arm"] == arm)
            found.append([arm, f"{parameters:,}", str(len(values)), mean_sd(summary(list(values.values())))])
        return found


class StudyComparisons(StudyTable):
    """``{study-comparisons} NAME METRIC`` compares each arm with the first one, and with its controls."""

    def rows(self, runs: list[dict[str, str]], metric: str) -> list[list[str]]:
        from app.lab.statistics import holm, paired
        from app.lab.tables import number

        values = by_arm(runs, metric)
        parents = {run["arm"]: run["parent"] for run in runs}
        first = next(iter(values))
        pairs = [(first, arm) if not parents[arm] else (arm, parents[arm]) for arm in values if arm != first]
        differences = []
        for a, b in pairs:
            seeds = sorted(values[a].keys() & values[b].keys())
            differences.append(paired([values[a][seed] for seed in seeds], [values[b][seed] for seed in seeds]))
        found = [["difference", "pairs", "mean", "95 % interval", "p", "smallest p", "Holm p"]]
        adjusted = holm([difference.p for difference in differences])
        for (a, b), difference, corrected in zip(pairs, differences, adjusted, strict=True):
            low, high = difference.interval or (float("nan"), float("nan"))
            interval = f"[{number(low, 2)}, {number(high, 2)}]"
            numbers = [number(value, 2) for value in (difference.p, difference.smallest_p, corrected)]
            found.append([f"{b} - {a}", str(difference.count), number(difference.mean, 2), interval, *numbers])
        return found


def by_arm(runs: list[dict[str, str]], metric: str) -> dict[str, dict[int, float]]:
    """Return a test metric by arm and seed."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        if run[f"test/{metric}"]:
            found.setdefault(run["arm"], {})[int(run["seed"])] = float(run[f"test/{metric}"])
    return found


HEADER = ["configuration", "quantity", "published", "measured here", "note"]


def _table_row(row: dict[str, str]) -> list[str]:
    config = " ``+`` ".join(f"``{part.removeprefix('configs/')}``" for part in row["config"].split())
    when = f", epoch {row['epoch']}" if row["epoch"] else ""
    quantity = f"{row['split']} {row['metric']}{when} ({row['unit']})"
    published = row["published"] and row["published"] + (f" ± {row['sd']}" if row["sd"] else "")
    if row["published"]:
        published += "".join(f"; {part}" for part in (_counted(row["seeds"]), row["source"]) if part)
    measured = row["measured"] and row["measured"] + (f" (seed {row['seed']})" if row["seed"] else "")
    return [config, quantity, published, measured, row["note"]]


def _counted(seeds: str) -> str:
    return f"{seeds} seeds" if seeds.isdigit() else f"seeds {seeds}" if seeds else ""


def show_cell_signature(
    app: Sphinx, what: str, name: str, object_: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Show the arguments of a cell, which its constructor collects in ``**core`` and passes to its base classes."""
    from cells import Cell
    from cells.registry import own_parameters

    if what != "class" or not issubclass(object_, Cell):
        return None
    own = [f"{argument}={parameter.default!r}" for argument, parameter in own_parameters(object_).items()]
    return f"({', '.join(['input_size', 'hidden_size', *(['*', *own] if own else [])])})", None


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    app.add_directive("results", Results)
    app.add_directive("study-results", StudyResults)
    app.add_directive("study-comparisons", StudyComparisons)
    app.connect("autodoc-process-signature", show_cell_signature)
    return {"parallel_read_safe": True}
