"""Options of the small commands, and text on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from tabulate import tabulate

from app.errors import UserError


class Parser(ArgumentParser):
    """A parser that reports invalid options as :class:`app.errors.UserError`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        from app.commands.error_messages import plain_message  # needs torch, so only for a message

        raise UserError(plain_message(message)) from ex


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a plain-text table with a dash for None. Columns of numbers are aligned to the right."""
    rows = list(rows)
    # tabulate would also format texts that look like numbers
    texts = [column for column in range(len(header)) if any(isinstance(row[column], str) for row in rows)]
    text: str = tabulate(rows, header, floatfmt=".4f", intfmt=",", missingval="-", disable_numparse=texts)
    return text


def metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table with a row for each data split and a column for each metric."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    return table(["", *names], [[split, *map(values.get, names)] for split, values in metrics.items()])


def echo(text: str) -> None:
    """Print ``text`` on standard output without delay."""
    print(text, file=sys.stdout, flush=True)
