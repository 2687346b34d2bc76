"""``python -m app cells``: which cells there are, and what one of them takes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import cells
from app.console import Parser, say, table
from app.errors import UserError
from cells.registry import class_path, origin, own_parameters


def list_cells(options: Sequence[str]) -> None:
    """Print a table of the registered cells, or the documentation of one.

    Raises:
        UserError: for a bad option or an unknown cell.
    """
    parser = Parser(prog="python -m app cells", description="List the registered cells, or explain one.")
    parser.add_argument("name", nargs="?", help="a cell, by its name or its dotted path: print its documentation")
    parser.add_argument("--input_size", type=int, default=1, help="for the number of parameters (default: 1)")
    parser.add_argument("--hidden_size", type=int, default=128, help="for the number of parameters (default: 128)")
    arguments = parser.parse_args(options)
    cells.load_entry_points()
    try:
        chosen = [cells.find_cell(arguments.name)] if arguments.name else None
        every = [cell for same_name in cells.registered_cells().values() for cell in same_name]
        built = {cell: cell(arguments.input_size, arguments.hidden_size) for cell in chosen or every}
    except ValueError as error:
        raise UserError(str(error)) from error
    sizes = f"input_size {arguments.input_size}, hidden_size {arguments.hidden_size}"
    if chosen:
        _explain(built[chosen[0]], sizes)
        return
    rows = [[cls.__name__, origin(cls), _parameters(cell), _equation(cls)] for cls, cell in built.items()]
    say(table(["cell", "origin", "parameters", "equation"], rows))
    say(f"\nParameters are counted for {sizes}. Arguments of one cell: python -m app cells NAME")


def _explain(cell: cells.Cell, sizes: str) -> None:
    cls = type(cell)
    say(f"{cls.__name__}: {class_path(cls)} ({origin(cls)}), {_parameters(cell)} parameters with {sizes}")
    say(f"\n{inspect.getdoc(cls)}\n")
    rows = []
    for name, parameter in own_parameters(cls).items():
        kind = (
            parameter.annotation
            if isinstance(parameter.annotation, str)
            else getattr(parameter.annotation, "__name__", str(parameter.annotation))
        )
        rows.append([f"--model.cell.{name}", repr(parameter.default), kind, _help(cls, name)])
    if rows:
        say(table(["argument", "default", "type", "meaning"], rows))
    if isinstance(cell, cells.DrivenCell):
        say(f"\nWith these defaults: {cells.gain_report(cell)}")


def _parameters(cell: cells.Cell) -> str:
    return f"{sum(parameter.numel() for parameter in cell.parameters()):,}"


def _equation(cell: type[cells.Cell]) -> str:
    return (inspect.getdoc(cell) or "").partition("\n")[0]


def _help(cell: type[cells.Cell], argument: str) -> str:
    """The first sentence on ``argument`` in the docstrings of the cell and of its base classes."""
    import docstring_parser  # comes with jsonargparse[signatures]

    for cls in cell.__mro__:
        for parameter in docstring_parser.parse(cls.__doc__ or "").params:
            if parameter.arg_name == argument and parameter.description:
                return " ".join(parameter.description.split()).partition(". ")[0].rstrip(".")
    return ""
