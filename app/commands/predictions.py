"""Tables of predictions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from app.errors import UserError
from app.runs.distributed import of_every_process
from datamodules.files import replacing


def write_predictions(batches: Sequence[dict[str, Any]], output: Path) -> int:
    """Write the rows of ``batches`` to a CSV or Parquet file with a column ``index`` and one for each entry.

    Args:
        batches: What ``predict_step`` returned: a column of equal length for each name, a tensor or a list.
        output: File to write, ``.csv`` or ``.parquet``; an old one is replaced when the new one is complete.

    Returns:
        The number of rows.

    Raises:
        UserError: for another ending, a missing package, or a file that cannot be written.
    """
    columns = {name: [value for batch in batches for value in _plain(batch[name])] for name in batches[0]}
    count = len(next(iter(columns.values())))
    columns = {"index": list(range(count)), **columns}
    try:
        with replacing(output) as temporary:
            if output.suffix == ".csv":
                with temporary.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(columns)
                    writer.writerows(zip(*columns.values(), strict=True))
            else:
                import pyarrow
                import pyarrow.parquet

                pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    return count


def _plain(column: Tensor | list[Any]) -> list[Any]:
    values: list[Any] = column.tolist() if isinstance(column, Tensor) else column
    return values


def every_prediction(batches: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The predictions of all processes in the order of the data, given those of this one; each must call it.

    The processes read pieces of the data that follow one another (``datamodules.batches``).
    """
    pieces = of_every_process(apply_to_collection(list(batches), Tensor, Tensor.cpu))
    return [batch for piece in pieces for batch in piece]


def check_output(output: Path) -> None:
    """Refuse, before any work is done, a file that :func:`write_predictions` could not write.

    Raises:
        UserError: for an ending other than .csv and .parquet, a missing package, or a missing folder.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise UserError(f"output is '{output}'; a file that ends in .csv or .parquet is expected")
    if not output.parent.is_dir():
        raise UserError(f"output is '{output}', but there is no folder '{output.parent}'")
    if output.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UserError("Parquet needs the package pyarrow: pip install 'momentum-rnn[parquet]'") from error
