"""``python -m app cells``: the registered cells, or the documentation of one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from jsonargparse.typing import PositiveInt

import cells as library
from app.commands.console import Parser, echo, table
from app.errors import UserError
from cells.engines.choice import explain_engine
from cells.registry import class_path, origin, own_parameters


def cells(options: Sequence[str]) -> None:
    """Print a table of the registered cells, or the documentation of one.

    Raises:
        UserError: for an invalid option or an unknown cell.
    """
    parser = Parser(prog="python -m app cells", description="List the registered cells, or describe one.")
    parser.add_argument("name", nargs="?", help="name or dotted path of a cell whose documentation is printed")
    parser.add_argument("--input_size", type=PositiveInt, default=1, help="for the number of parameters")
    parser.add_argument("--hidden_size", type=PositiveInt, default=128, help="for the number of parameters")
    arguments = parser.parse_args(options)
    library.load_entry_points()
    try:
        chosen = library.find_cell(arguments.name) if arguments.name else None
        every = [cell for same_name in library.registered_cells().values() for cell in same_name]
        built, refused = _build([chosen] if chosen else every, arguments.input_size, arguments.hidden_size)
    except ValueError as error:
        raise UserError(str(error)) from error
    sizes = f"input_size {arguments.input_size}, hidden_size {arguments.hidden_size}"
    if chosen:
        _describe(built[chosen], sizes)
        return
    counts = {cls: _parameters(built[cls]) if cls in built else None for cls in every}
    rows = [[cls.__name__, origin(cls), counts[cls], _equation(cls)] for cls in every]
    echo(table(["cell", "origin", "parameters", "equation"], rows))
    echo("".join(f"\n- {cls.__name__}: {reason}" for cls, reason in refused.items()))
    echo(f"Parameters are counted for {sizes}. Arguments of one cell: python -m app cells NAME")


def _build(
    classes: Sequence[type[library.Cell]], input_size: int, hidden_size: int
) -> tuple[dict[type[library.Cell], library.Cell], dict[type[library.Cell], str]]:
    """Return the cells of these sizes, and for the classes that refuse them the reason.

    Raises:
        ValueError: if all of them refuse.
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


def _describe(cell: library.Cell, sizes: str) -> None:
    cls = type(cell)
    echo(f"{cls.__name__}: {class_path(cls)} ({origin(cls)}), {_parameters(cell):,} parameters with {sizes}")
    echo(f"\n{inspect.getdoc(cls)}\n")
    rows = []
    for name, parameter in own_parameters(cls).items():
        kind = (
            parameter.annotation
            if isinstance(parameter.annotation, str)
            else getattr(parameter.annotation, "__name__", str(parameter.annotation))
        )
        rows.append([f"--model.cell.{name}", repr(parameter.default), kind, _help(cls, name)])
    if rows:
        echo(table(["argument", "default", "type", "meaning"], rows))
    engine, reason = explain_engine(cell)
    echo(f"\nEngine: {engine}" + (f"; it is not fused, because {reason}" if reason else ""))
    report = library.gain_report(cell)
    if report.dc_gain is not None:
        echo(f"\nWith these defaults: {report}")


def _parameters(cell: library.Cell) -> int:
    return sum(parameter.numel() for parameter in cell.parameters())


def _equation(cell: type[library.Cell]) -> str:
    return (inspect.getdoc(cell) or "").partition("\n")[0]


def _help(cell: type[library.Cell], argument: str) -> str:
    """Return the first sentence on ``argument`` in the docstrings of the cell and its base classes."""
    import docstring_parser  # installed by jsonargparse[signatures]

    for cls in cell.__mro__:
        for parameter in docstring_parser.parse(cls.__doc__ or "").params:
            if parameter.arg_name == argument and parameter.description:
                return " ".join(parameter.description.split()).partition(". ")[0].rstrip(".")
    return ""
