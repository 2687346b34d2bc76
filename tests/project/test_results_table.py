"""Tests of configs/results.csv, the table of published and measured figures.

A row is one figure of one configuration. ``config`` holds a file, or the files of a pair in the order of the command
line. ``published`` and ``sd`` are the mean and the sample standard deviation over ``seeds`` runs. ``measured`` is one
run with ``seed``, and ``commit`` is the commit that recorded it. Unknown entries are empty.
"""

from __future__ import annotations

import csv
import re

import pytest
from helpers.paths import ROOT

COLUMNS = ["config", "metric", "split", "epoch", "unit"]
COLUMNS += ["published", "sd", "seeds", "source", "measured", "seed", "commit", "note"]
TABLE = ROOT / "configs" / "results.csv"
with TABLE.open(encoding="utf-8", newline="") as file:
    READER = csv.DictReader(file)
    ROWS = list(READER)
PATHS = sorted((ROOT / "configs").rglob("*.yaml"))
HEADERS = {
    path.relative_to(ROOT).as_posix(): "".join(
        line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("#")
    )
    for path in PATHS
}
NUMBER = r"\d+(\.\d+)?"


def test_table_has_the_documented_columns():
    assert READER.fieldnames == COLUMNS
    assert ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['config']}-{row['metric']}-{row['split']}-{row['epoch']}")
def test_row_is_complete(row):
    files = row["config"].split()
    assert files
    assert set(files) <= set(HEADERS)
    assert row["metric"]
    assert row["split"] in ("validation", "test", "best_test")
    for name in ("published", "sd", "measured"):
        assert re.fullmatch(NUMBER, row[name] or "0"), f"{name} must be a number or empty, got {row[name]!r}"
    for name in ("epoch", "seeds", "seed"):
        assert re.fullmatch(r"\d*", row[name]), f"{name} must be an integer or empty, got {row[name]!r}"
    assert re.fullmatch(r"([0-9a-f]{7,40})?", row["commit"])
    assert row["published"] or row["measured"]
    assert bool(row["published"]) == bool(row["source"])  # every published figure has a source
    assert row["published"] or not row["sd"]
    assert bool(row["measured"]) == bool(row["commit"])
    assert row["measured"] or not row["seed"]


def test_no_figure_is_there_twice():
    keys = [tuple(row[name] for name in ("config", "metric", "split", "epoch", "source", "seed")) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_headers_hold_no_figures():
    """A number with a decimal point that is in the table of a file must not be in its header too."""
    figures = {
        (path, row[name])
        for row in ROWS
        for path in row["config"].split()
        for name in ("published", "measured")
        if "." in row[name]
    }
    repeated = [
        (path, figure)
        for path, figure in figures
        if re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", HEADERS[path])
    ]
    assert not repeated
    assert not [path for path, header in HEADERS.items() if "±" in header or "Expected" in header]
