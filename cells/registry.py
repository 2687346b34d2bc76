"""The registry of cells. Importing a concrete subclass of Cell registers it; there is no list to edit."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import warnings
from abc import ABCMeta
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points, packages_distributions
from itertools import accumulate
from typing import Any

from cells.cell import Cell
from cells.validation import closest_first

ENTRY_POINT_GROUP = "cells"


def load_entry_points() -> None:
    """Import the cells that installed packages declare in the entry-point group ``cells``.

    An entry point names a module or a class; importing it registers its cells. If the import fails, a warning names the
    package, and the other cells stay usable.
    """
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry_point.load()
        except Exception as error:  # a plug-in may fail in any way, and must not stop the program
            package = entry_point.dist.name if entry_point.dist else "an unknown package"
            warnings.warn(
                f"the cells of {package} ({entry_point.value}) cannot be imported: {type(error).__name__}: {error}",
                stacklevel=2,
            )


def registered_cells() -> dict[str, list[type[Cell]]]:
    """Return every imported concrete subclass of Cell by name, in alphabetical order.

    The classes that torch creates for single objects with a parametrized tensor are not included.
    """
    cells: dict[str, list[type[Cell]]] = {}
    for cell in sorted(set(_subclasses(Cell)), key=class_path):
        made_by_torch = cell.__module__ == ABCMeta.__module__  # the module of a class created by a call of type()
        if not inspect.isabstract(cell) and not made_by_torch:
            cells.setdefault(cell.__name__, []).append(cell)
    return dict(sorted(cells.items()))


def find_cell(name: str) -> type[Cell]:
    """Return the cell with this name, or with this dotted path (``package.module.Class``).

    Raises:
        ValueError: for an unknown name (with the known ones, closest first), a name of two cells (with both paths), or
            a path that is not one of a cell.
    """
    if "." in name:
        return _import_cell(name)
    cells = registered_cells()
    if name not in cells:
        raise ValueError(
            f"there is no cell {name!r}; known cells, closest first: {closest_first(name, cells)}. "
            "Name a cell of your own by its path, package.module.Class"
        )
    if len(cells[name]) > 1:
        raise ValueError(
            f"two cells have the name {name!r}: {' and '.join(map(class_path, cells[name]))}. Use one of these paths"
        )
    return cells[name][0]


def class_path(cls: type) -> str:
    """Return the public dotted path of a class: the shortest one from which it can be imported.

    ``cells.MomentumLSTM``, not the file that holds it, so that configurations and checkpoints survive a move.
    """
    packages = accumulate(cls.__module__.split("."), "{}.{}".format)
    public = (name for name in packages if getattr(sys.modules.get(name), cls.__qualname__, None) is cls)
    return f"{next(public, cls.__module__)}.{cls.__qualname__}"


def origin(cell: type[Cell]) -> str:
    """Return the origin of a cell: ``built in``, the name of the installed package, or the module of a single file."""
    top = cell.__module__.partition(".")[0]
    if top == "cells":
        return "built in"
    return ", ".join(_distributions(tuple(sys.path)).get(top, [cell.__module__]))


@functools.cache  # it reads the metadata of every installed package
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return the installed packages by the names of their modules."""
    return packages_distributions()


def own_parameters(cell: type[Cell]) -> dict[str, inspect.Parameter]:
    """Return the keyword arguments of a cell without its sizes, including those that it passes to its base classes."""
    found: dict[str, inspect.Parameter] = {}
    for cls in cell.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _subclasses(cls: Any) -> Iterator[type[Cell]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _import_cell(path: str) -> type[Cell]:
    module_path, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_path)
    except ImportError as error:
        raise ValueError(f"the cell {path!r} cannot be imported: {error}") from error
    cell = getattr(module, name, None)
    if cell is None:
        raise ValueError(f"the module {module_path!r} has no class {name!r}")
    if not (isinstance(cell, type) and issubclass(cell, Cell)) or inspect.isabstract(cell):
        raise ValueError(f"{path!r} is not a cell, a subclass of cells.Cell that implements step and initial_state")
    return cell
