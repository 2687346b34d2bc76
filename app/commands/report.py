"""``python -m app report``: what a study found, as a page or a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.commands.console import Parser, echo
from app.errors import UserError
from app.lab.directory import study_directory, write_text
from app.lab.gathering import gather
from app.lab.reading import read_study
from app.lab.report import FORMATS, progress, write_figures
from app.lab.study import find_file


def report(options: Sequence[str]) -> None:
    """Write the report of a study, complete or not.

    Raises:
        UserError: for a bad option, a study that was never started, or a file that cannot be written.
    """
    parser = Parser(prog="python -m app report", description="Write what a study found: tables, figures, statistics.")
    parser.add_argument("study", help="study file, such as configs/studies/momentum_digits.yaml")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.html"),
        help="report.html, report.md, report.tex, or runs.csv: the table of all runs",
    )
    parser.add_argument("--figures", type=Path, help="folder for the figures as SVG files (default: none)")
    parser.add_argument("--dir", type=Path, help="directory of the study (default: that of sweep)")
    arguments = parser.parse_args(options)
    output: Path = arguments.output
    if output.suffix not in FORMATS:
        raise UserError(f"--output must end in {', '.join(FORMATS)}, got '{output}'")
    study = read_study(find_file(arguments.study, "the study"))
    gathered = gather(study, study_directory(study.name, arguments.dir))
    text = FORMATS[output.suffix](gathered, output)
    place = output
    try:
        write_text(output, text)
        if arguments.figures is not None:
            place = arguments.figures
            write_figures(gathered, place)
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror or error}") from error
    echo(f"{progress(gathered)}\nreport: {output}")
