"""The packages import each other in one direction only, and their files stay short."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest
from helpers.paths import ROOT

PACKAGES = {  # what each package may import, beside the standard library and itself; None: anything that is installed
    "cells": {"torch", "geotorch", "llvmlite", "numpy"},  # the last two: compiled steps of the engine fused
    "datamodules": None,
    "app": None,
}
MAY_IMPORT = {"cells": set(), "datamodules": set(), "app": {"cells", "datamodules"}}  # of the packages
MOST_LINES = 350
MOST_MODULES_IN_APP = 3  # beside its folders: __init__, __main__ and errors

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and top-level module of every import, also of those in functions and for type checking."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:  # a relative import stays in its package
            yield node.lineno, str(node.module).partition(".")[0]


def violations(package: str, source: str) -> list[str]:
    """Return the imports in a file of ``package`` that are not allowed, as "line N: module"."""
    third_party = PACKAGES[package]
    found = []
    for line, module in imports(source):
        if module == package or module in sys.stdlib_module_names:
            continue
        from_project = module in PACKAGES and module in MAY_IMPORT[package]
        from_third_party = module not in PACKAGES and (third_party is None or module in third_party)
        if not (from_project or from_third_party):
            found.append(f"line {line}: {module}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_from_app_to_cells_and_datamodules(path):
    package = path.relative_to(ROOT).parts[0]
    found = violations(package, path.read_text(encoding="utf-8"))
    assert not found, f"{package} must not import: {', '.join(found)}"


@pytest.mark.parametrize(
    ("package", "source", "expected"),
    [
        ("cells", "import app", ["line 1: app"]),
        ("cells", "def f():\n    from datamodules.base import Batch", ["line 2: datamodules"]),
        ("cells", "import torch.nn, pandas", ["line 1: pandas"]),
        ("cells", "from . import state\nfrom cells.state import State\nimport sys", []),
        ("datamodules", "from cells import Cell\nimport numpy", ["line 1: cells"]),
        ("datamodules", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import app.tasks", ["line 3: app"]),
        ("app", "import cells, datamodules.text, numpy", []),
    ],
)
def test_violations_are_found(package, source, expected):
    assert violations(package, source) == expected


def test_no_file_is_long():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert len(lengths) > 50
    long = {name for name, length in lengths.items() if length > MOST_LINES}
    assert not long, f"more than {MOST_LINES} lines: {sorted(long)}. Split each by what its parts do."


def test_app_has_few_modules_at_its_top_level():
    modules = sorted(path.name for path in (ROOT / "app").glob("*.py"))
    assert 0 < len(modules) <= MOST_MODULES_IN_APP, f"put into a folder of app: {modules}"
