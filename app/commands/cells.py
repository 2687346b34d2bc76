"""``python -m app cells``: which cells there are, and what one of them takes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import cells
from app.commands.console import Parser, say, table
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
        chosen = cells.find_cell(arguments.name) if arguments.name else None
        every = [cell for same_name in cells.registered_cells().values() for cell in same_name]
        built, refused = _build([chosen] if chosen else every, arguments.input_size, arguments.hidden_size)
    except ValueError as error:
        raise UserError(str(error)) from error
    sizes = f"input_size {arguments.input_size}, hidden_size {arguments.hidden_size}"
    if chosen:
        _explain(built[chosen], sizes)
        return
    counts = {cls: _parameters(built[cls]) if cls in built else "-" for cls in every}
    rows = [[cls.__name__, origin(cls), counts[cls], _equation(cls)] for cls in every]
    say(table(["cell", "origin", "parameters", "equation"], rows))
    say("".join(f"\n- {cls.__name__}: {reason}" for cls, reason in refused.items()))
    say(f"Parameters are counted for {sizes}. Arguments of one cell: python -m app cells NAME")


def _build(
    classes: Sequence[type[cells.Cell]], input_size: int, hidden_size: int
) -> tuple[dict[type[cells.Cell], cells.Cell], dict[type[cells.Cell], str]]:
    """The cells, and why some cannot have these sizes.

    Raises:
        ValueError: if none of them can.
    """
    built, refused = {}, {}
    for cls in classes:
        try:
            built[cls] = cls(input_size, hidden_size)
        except ValueError as error:
            refused[cls] = str(error)
    if not built:
        raise ValueError(next(iter(refused.values())))
    return built, refused


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
    report = cells.gain_report(cell)
    if report.dc_gain is not None:
        say(f"\nWith these defaults: {report}")


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
