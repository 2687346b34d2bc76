"""Sphinx directives that compute what pages show: help of commands, and rows of configs/results.csv."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.parsers.rst.directives.tables import CSVTable
from sphinx.application import Sphinx

RESULTS = Path(__file__).parents[1] / "configs" / "results.csv"


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

    Published and measured values are in two columns, so that no reader takes one for the other. With the option
    ``:reproduced:`` only rows that have both are shown.
    """

    optional_arguments = 1
    option_spec: ClassVar = {**(CSVTable.option_spec or {}), "reproduced": directives.flag}

    def run(self) -> list[nodes.Node]:
        prefix = self.arguments.pop() if self.arguments else ""
        self.options["header-rows"] = 1
        with RESULTS.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["config"].startswith(prefix)]
        if "reproduced" in self.options:
            rows = [row for row in rows if row["published"] and row["measured"]]
        table = io.StringIO()
        csv.writer(table).writerows([HEADER, *map(_table_row, rows)])
        for line in table.getvalue().splitlines():
            self.content.append(line, str(RESULTS))
        self.state.document.settings.record_dependencies.add(str(RESULTS))
        return super().run()


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
    app.connect("autodoc-process-signature", show_cell_signature)
    return {"parallel_read_safe": True}
