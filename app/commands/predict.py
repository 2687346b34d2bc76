"""``python -m app predict``: a table of predictions for the test data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from app.commands.parsing import CommandLine
from app.commands.session import echo, run
from app.errors import UserError
from app.runs.distributed import of_every_process
from datamodules.files import replacing

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a text in CSV begins with that spreadsheets take for a formula


def predict(options: Sequence[str]) -> None:
    """Run the command ``predict``."""
    run("predict", options, _predict)


def _predict(line: CommandLine) -> None:
    output = Path(line.options.output or "predictions.csv")
    check_output(output)
    checkpoint = line.options.ckpt_path
    batches: Any = line.trainer.predict(line.model, line.datamodule, ckpt_path=checkpoint, weights_only=True)
    batches = every_prediction(batches or [])
    if not batches:
        echo("nothing was predicted: the limits of the trainer allow no batch")
    elif line.trainer.is_global_zero:
        echo(f"{write_predictions(line.model.prediction_table(batches), output):,} predictions: {output}")
        if summary := line.model.prediction_summary(batches):
            echo(summary)


def write_predictions(batches: Sequence[dict[str, Any]], output: Path) -> int:
    """Write the rows of ``batches`` to a CSV or Parquet file with a column ``index`` and one for each entry.

    In CSV an apostrophe precedes texts that spreadsheets would take for formulas, such as ``=1+1``. Parquet has the
    texts unchanged.

    Args:
        batches: What ``predict_step`` returned: for each name a column, a tensor or a list. All have the same length.
        output: The file, ``.csv`` or ``.parquet``. An old one is replaced when the new one is complete.

    Returns:
        The number of rows.

    Raises:
        UserError: if the file cannot be written.
    """
    columns = {name: [value for batch in batches for value in _as_list(batch[name])] for name in batches[0]}
    count = len(next(iter(columns.values())))
    columns = {"index": list(range(count)), **columns}
    try:
        with replacing(output) as temporary:
            if output.suffix == ".csv":
                with temporary.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(columns)
                    writer.writerows(map(_as_text, row) for row in zip(*columns.values(), strict=True))
            else:
                import pyarrow
                import pyarrow.parquet

                pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    return count


def every_prediction(batches: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return the predictions of all processes in the order of the data. Every process must call this function.

    Each process reads one contiguous piece of the data (:mod:`datamodules.batches`).

    Args:
        batches: The predictions of this process.
    """
    pieces = of_every_process(apply_to_collection(list(batches), Tensor, Tensor.cpu))
    return [batch for piece in pieces for batch in piece]


def check_output(output: Path) -> None:
    """Check before any work is done that :func:`write_predictions` can write ``output``.

    Raises:
        UserError: for an ending other than .csv and .parquet, a missing package, or a missing directory.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise UserError(f"output must end in .csv or .parquet, got '{output}'")
    if not output.parent.is_dir():
        raise UserError(f"the directory '{output.parent}' of output '{output}' does not exist")
    if output.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UserError("Parquet needs the package pyarrow: pip install 'momentum-rnn[parquet]'") from error


def _as_text(value: Any) -> Any:
    """Return a text that a spreadsheet would execute as a formula with an apostrophe in front, else ``value``."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _as_list(column: Tensor | list[Any]) -> list[Any]:
    values: list[Any] = column.tolist() if isinstance(column, Tensor) else column
    return values
