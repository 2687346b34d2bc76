"""``python -m app prepare timit``: data that need work before they can be read, made ready once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.commands.console import Parser, say, table
from app.errors import UserError
from datamodules import DataError
from datamodules.timit.feature_files import DTYPES
from datamodules.timit.preparation import prepare_timit
from datamodules.timit.recordings import GROUPS, SENTENCES, differences


def prepare(options: Sequence[str]) -> None:
    """Parse the options of the command ``prepare`` and run it.

    Raises:
        UserError: for a mistake in the options, the disc or the folder to write to.
    """
    parser = Parser(prog="python -m app prepare", description="Read a disc, and write its features to files.")
    parser.add_argument("data", choices=["timit"], help="what to prepare")
    parser.add_argument("--root", type=Path, required=True, help="folder of the disc, or one above it; only read")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, for --data.prepared")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the numbers (default: float32)")
    parser.add_argument("--processes", type=int, help="how many at once (default: one for each processor)")
    arguments = parser.parse_args(options)

    try:
        files = prepare_timit(arguments.root, arguments.out, arguments.dtype, arguments.processes)
    except (DataError, ValueError) as error:
        raise UserError(str(error)) from error
    utterances = [(said.speaker, said.sentence) for file in files for said in file.utterances]
    rows = [[file.name, len(file), len(GROUPS.get(file.name, ())) * SENTENCES or "-"] for file in files]
    say(table(["speakers", "utterances", "in the whole corpus"], rows))
    for difference in differences(utterances):
        say(difference)
    say(f"prepared: {arguments.out}")
