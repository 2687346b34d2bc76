"""Reports of a study: one HTML page, Markdown or LaTeX; and the table of its runs as CSV."""

from __future__ import annotations

import base64
import csv
import os
import re
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from tabulate import tabulate

from app.lab.directory import write_text
from app.lab.gathering import ArmResults, Gathered, Run
from app.lab.study import Target
from app.lab.tables import (
    Cell,
    Table,
    anchor,
    comparison_table,
    cost_of,
    design,
    failure_table,
    point,
    results_table,
    sensitivity_table,
    target_table,
)

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
}  # fmt: skip


def tables(gathered: Gathered) -> list[Table]:
    """Return the tables of a report in order."""
    every = [
        results_table(gathered),
        comparison_table(gathered),
        target_table(gathered),
        design(gathered),
        sensitivity_table(gathered),
        failure_table(gathered),
    ]
    return [table for table in every if table is not None]


def html(gathered: Gathered, output: Path) -> str:
    """Return one self-contained page with tables and figures."""
    from app.lab.figures import pictures

    environment = Environment(
        loader=PackageLoader("app.lab"), autoescape=select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True
    )
    drawn = [
        (picture.title, picture.caption, base64.b64encode(picture.svg.encode()).decode())
        for picture in pictures(gathered)
    ]
    page: str = environment.get_template("report.html").render(
        study=gathered.study,
        tables=tables(gathered),
        pictures=drawn,
        lists=[
            (anchor(results, phase), results, phase, runs)
            for results in gathered.arms
            for phase, runs in (("tuning", results.tuning), ("reporting", results.reporting))
            if runs
        ],
        link=lambda run: _relative(run.path, output),
        point=point,
        progress=progress(gathered),
        command=command(gathered),
        study_text=gathered.study.path.read_text(encoding="utf-8"),
    )
    return page


def markdown(gathered: Gathered, output: Path) -> str:
    """Return the tables as Markdown; each number links to the list of its run directories."""

    def text(cell: Cell) -> str:
        plain = cell.text.replace("|", r"\|")
        return f"[{plain}](#{cell.runs})" if cell.runs else plain

    parts = [f"# {gathered.study.name}", progress(gathered)]
    for table in tables(gathered):
        parts += [f"## {table.title}", table.note, _tabulated(table, "github", text)]
    parts.append("## Run directories")
    for results, phase in _lists(gathered):
        runs = results.tuning if phase == "tuning" else results.reporting
        lines = [
            f'- <a id="run-{run.name}"></a>[{run.name}]({_relative(run.path, output)}): {point(run.values)}, '
            f"seed {run.seed}, {run.status}"
            for run in runs
        ]
        parts += [f'<a id="{anchor(results, phase)}"></a>\n### {results.label}, {phase}', "\n".join(lines)]
    parts += ["## Reproduce", f"```bash\n{command(gathered)}\n```"]
    return "\n\n".join(parts) + "\n"


def latex(gathered: Gathered, output: Path) -> str:
    """Return the tables as a LaTeX document with booktabs; each number links to the list of its run directories."""

    def text(cell: Cell) -> str:
        plain = escaped(cell.text)
        return rf"\hyperref[{cell.runs}]{{{plain}}}" if cell.runs else plain

    parts = [
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage[margin=1in,landscape]{geometry}\n"
        "\\usepackage{hyperref}\n\\begin{document}",
        rf"\section*{{{escaped(gathered.study.name)}}}",
        escaped(progress(gathered)),
    ]
    for table in tables(gathered):
        body = _tabulated(table, "latex_raw", text).replace(r"\hline", r"\midrule")
        body = re.sub(r"\\midrule", r"\\toprule", body, count=1)
        body = r"\bottomrule".join(body.rsplit(r"\midrule", 1))
        parts += [rf"\subsection*{{{escaped(table.title)}}}", escaped(table.note), rf"{{\small\noindent {body}}}"]
    parts.append(r"\section*{Run directories}")
    for results, phase in _lists(gathered):
        runs = results.tuning if phase == "tuning" else results.reporting
        parts.append(rf"\phantomsection\label{{{anchor(results, phase)}}}")
        parts.append(rf"\subsection*{{{escaped(f'{results.label}, {phase}')}}}")
        items = [
            rf"\item \phantomsection\label{{run-{run.name}}}\href{{run:{_relative(run.path, output)}}}"
            rf"{{\texttt{{{escaped(run.name)}}}}}: {escaped(point(run.values))}, seed {run.seed}, {run.status}"
            for run in runs
        ]
        parts.append("\\begin{itemize}\n" + "\n".join(items) + "\n\\end{itemize}")
    parts += [
        r"\section*{Reproduce}",
        f"\\begin{{verbatim}}\n{command(gathered)}\n\\end{{verbatim}}",
        r"\end{document}",
    ]
    return "\n\n".join(parts) + "\n"


def run_table(gathered: Gathered, output: Path) -> str:
    """Return one row for each planned run: its point, its results, and what it cost to reach each target.

    It is a small record of a whole study, from which the tables can be computed again.
    """
    tuned = dict.fromkeys(name for run in gathered.runs for name in run.values)
    rows = []
    for results in gathered.arms:
        for run in (*results.tuning, *results.reporting):
            found = run.results or {}
            metrics = {
                f"{part}/{name}": value
                for part in ("validation", "test")
                for name, value in found.get(part, {}).items()
            }
            rows.append(
                {
                    "arm": results.label,
                    "parent": results.arm.parent or "",
                    "phase": run.phase,
                    "seed": run.seed,
                    **tuned,
                    **run.values,
                    "status": run.status,
                    **metrics,
                    **{name: found.get(name) for name in ("best_epoch", "parameters")},
                    "seconds": run.outcome.seconds if run.outcome else None,
                    **_costs(run, gathered.study.targets),
                    "run": run.name,
                }
            )
    columns = dict.fromkeys(name for row in rows for name in row)
    file = StringIO()
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _costs(run: Run, targets: Sequence[Target]) -> dict[str, float | None]:
    """Return what it cost a run to reach each target; None where it did not, and where the FLOPs are unknown."""
    found: dict[str, float | None] = {}
    for target in targets:
        costs = cost_of(run, target) or (None, None, None)
        found |= {f"{target}: {unit}": cost for unit, cost in zip(("epochs", "seconds", "FLOPs"), costs, strict=True)}
    return found


FORMATS: dict[str, Callable[[Gathered, Path], str]] = {
    ".html": html,
    ".md": markdown,
    ".tex": latex,
    ".csv": run_table,
}


def write_figures(gathered: Gathered, folder: Path) -> None:
    """Write each figure of a report as an SVG file, named by its title."""
    from app.lab.figures import pictures

    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures(gathered):
        write_text(folder / f"{re.sub('[^a-z0-9]+', '_', picture.title.lower())}.svg", picture.svg)


def command(gathered: Gathered) -> str:
    """Return the command that reproduces a report."""
    return f"python -m app sweep {gathered.study.path}\npython -m app report {gathered.study.path}"


def progress(gathered: Gathered) -> str:
    """Return how many runs there are, in a sentence."""
    runs = {run.name: run.status for run in gathered.runs}
    counts = {status: list(runs.values()).count(status) for status in dict.fromkeys(runs.values())}
    return f"{len(runs)} runs: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + "."


def escaped(text: str) -> str:
    """Return a text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in text)


def _lists(gathered: Gathered) -> list[tuple[ArmResults, str]]:
    return [
        (results, phase)
        for results in gathered.arms
        for phase, runs in (("tuning", results.tuning), ("reporting", results.reporting))
        if runs
    ]


def _tabulated(table: Table, form: str, text: Callable[[Cell], str]) -> str:
    rows = [[text(cell) for cell in row] for row in table.rows]
    header = [text(Cell(name)) for name in table.header]
    text_of_table: str = tabulate(rows, header, tablefmt=form, disable_numparse=True)
    return text_of_table


def _relative(path: Path, output: Path) -> str:
    return Path(os.path.relpath(path, output.absolute().parent)).as_posix()
