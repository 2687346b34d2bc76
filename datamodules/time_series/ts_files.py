"""Files in the ``.ts`` format of the UCR and UEA archives.

Lines that start with ``#`` or ``%`` are comments. The header has one field per line, such as ``@univariate false``, and
ends with ``@data``. Each further line is a series: its channels, separated by ``:``, and its label at the end. The
values of a channel are separated by commas.

Shapes: T steps of a series, I channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.base import DataError

MISSING = "?"
COMMENTS = ("#", "%")


class SeriesFile(NamedTuple):
    """The contents of a file.

    Attributes:
        series: The series, each an array (T, I) in float64. A missing value is NaN.
        labels: Label of each series.
        classes: Labels of the header, in its order.
    """

    series: list[np.ndarray]
    labels: list[str]
    classes: list[str]


def read_ts(path: Path) -> SeriesFile:
    """Read a classification problem.

    Raises:
        DataError: The file is missing, unreadable or not in the format, has time stamps, or has no class labels. The
            message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    classes, first = _read_header(path, lines)
    series: list[np.ndarray] = []
    labels: list[str] = []
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line.strip() or line.startswith(COMMENTS):
            continue
        try:
            *channels, label = line.strip().split(":")
            array_TI = _read_channels(channels)
            if series and array_TI.shape[1] != series[0].shape[1]:
                raise ValueError(
                    f"a series must have {series[0].shape[1]} channels like the first, got {len(channels)}"
                )
            if label.strip() not in classes:
                raise ValueError(f"a label must be one of {', '.join(classes)}, got {label.strip()!r}")
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        series.append(array_TI)
        labels.append(label.strip())
    if not series:
        raise DataError(f"{path} must have at least one series after @data, got none")
    return SeriesFile(series, labels, classes)


def _read_header(path: Path, lines: list[str]) -> tuple[list[str], int]:
    """Return the labels of the header, and the index of the first line of data."""
    fields: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        name, *values = line.split() or [""]
        if name.lower() == "@data":
            break
        if name.startswith("@"):
            fields[name.lower()] = values
        elif name and not name.startswith(COMMENTS):
            raise DataError(f"{path}, line {number}: a header field must start with @, got {name!r}")
    else:
        raise DataError(f"{path} must have a line @data, got none")
    if _is_true(fields.get("@timestamps", [])):
        raise DataError(f"{path} has time stamps (@timestamps true), which are not supported")
    labels = fields.get("@classlabel", [])
    if not _is_true(labels) or len(labels) < 3:
        raise DataError(f"{path} must have a field @classLabel true with at least two labels: it is no classification")
    return labels[1:], number


def _is_true(values: list[str]) -> bool:
    return bool(values) and values[0].lower() == "true"


def _read_channels(channels: list[str]) -> np.ndarray:
    """Return the values (T, I) of the channels of a series."""
    rows = [
        np.array([np.nan if value.strip() == MISSING else float(value) for value in channel.split(",")])
        for channel in channels
        if channel.strip()
    ]
    if len(rows) < len(channels) or not rows:
        raise ValueError("a series must have values in each channel, got an empty channel")
    if any(np.isinf(row).any() for row in rows):
        raise ValueError("values must be finite or ?, got an infinite value")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"the channels of a series must have the same length, got {sorted(lengths)}")
    return np.stack(rows, axis=1)
