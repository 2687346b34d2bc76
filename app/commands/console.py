"""What the user writes and reads: options, and tables and sentences on standard output."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from typing import NoReturn

from app.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser of options whose complaints are mistakes of the user."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A plain text table with aligned columns: numbers to the right, text to the left."""
    cells = [[f"{value:.4f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    lines = [list(header), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [all(re.fullmatch(r"[-+]?[\d.,]+", row[column]) for row in cells) for column in range(len(widths))]

    def line(texts: list[str]) -> str:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(lines[0]), rule, *map(line, cells)])


def metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Parts of the data down, their metrics across."""
    names = list(dict.fromkeys(name for part in metrics.values() for name in part))
    return table(["", *names], [[part, *(values.get(name, "-") for name in names)] for part, values in metrics.items()])


def say(text: str) -> None:
    """Tell the user something on standard output, at once."""
    print(text, file=sys.stdout, flush=True)
