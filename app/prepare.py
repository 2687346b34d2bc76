"""``python -m app prepare timit``: data that need work before they can be read, made ready once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from app.console import say, table
from app.errors import UserError


def prepare(options: Sequence[str]) -> None:
    """Parse the options of the command ``prepare`` and run it.

    Raises:
        UserError: for a mistake in the options, the disc or the folder to write to.
    """
    parser = argparse.ArgumentParser(
        "python -m app prepare", description="Write TIMIT's features to files.", exit_on_error=False
    )
    parser.add_argument("data", choices=["timit"], help="what to prepare")
    parser.add_argument("--root", type=Path, required=True, help="folder of the disc, or one above it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files, for --data.prepared")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="type of the numbers")
    parser.add_argument("--processes", type=int, default=None, help="how many at once; default: one for each processor")
    try:
        arguments, unknown = parser.parse_known_args(options)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if unknown:
        raise UserError(f"{unknown[0]} is not known; --root, --out, --dtype or --processes is expected")

    from datamodules import DataError, prepare_timit  # takes seconds

    try:
        counts, differences = prepare_timit(arguments.root, arguments.out, arguments.dtype, arguments.processes)
    except (DataError, ValueError) as error:
        raise UserError(str(error)) from error
    say(table(["speakers", "utterances", "expected"], counts))
    for difference in differences:
        say(difference)
    say(f"prepared: {arguments.out}")
