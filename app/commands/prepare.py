"""``python -m app prepare timit``: features of a corpus, computed once and written to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import PositiveInt

from app.commands.console import Parser, echo, table
from app.errors import UserError
from datamodules import DataError
from datamodules.timit.feature_files import DTYPES
from datamodules.timit.preparation import prepare_timit
from datamodules.timit.recordings import GROUPS, SENTENCES, differences


def prepare(options: Sequence[str]) -> None:
    """Run the command ``prepare``.

    Raises:
        UserError: for an invalid option, an incomplete disc, or a directory that cannot be written.
    """
    parser = Parser(prog="python -m app prepare", description="Write the features of a corpus to files.")
    parser.add_argument("data", choices=["timit"], help="corpus to prepare")
    parser.add_argument("--root", type=Path, required=True, help="directory of the corpus or above it; only read")
    parser.add_argument("--out", type=Path, required=True, help="directory to write to, for --data.prepared")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the features")
    parser.add_argument("--processes", type=PositiveInt | None, help="parallel processes; default: one per processor")
    arguments = parser.parse_args(options)

    try:
        files = prepare_timit(arguments.root, arguments.out, arguments.dtype, arguments.processes)
    except (DataError, ValueError) as error:
        raise UserError(str(error)) from error
    utterances = [(said.speaker, said.sentence) for file in files for said in file.utterances]
    rows = [[file.name, len(file), len(GROUPS.get(file.name, ())) * SENTENCES or None] for file in files]
    echo(table(["speakers", "utterances", "in the complete corpus"], rows))
    for difference in differences(utterances):
        echo(difference)
    echo(f"prepared: {arguments.out}")
