"""The table of all cells, ``docs/cells.md``: equation, parameters, operations, engine, speed.

    python -m benchmarks.cells_table --output docs/cells.md
    python -m benchmarks.cells_table --cells LSTM JANET --size 128x784x1x128 --repeats 5

At equal width, every cell has the H units of the size BxTxIxH. At equal parameters, each cell has the width with which
it has about as many parameters as the LSTM of H units. Operations are those of the matrix products of one training step
(:func:`cells.flops`). Speed is the time of a training step at equal width divided by that of the LSTM. Both are
measured alternately in one run; the table shows the median and the quartiles.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import torch

from benchmarks.cells import Size, parse_size, training_step
from benchmarks.timing import alternate, ratio
from cells import Cell, find_cell, flops, registered_cells
from cells.engines.choice import explain_engine
from cells.registry import origin

HEADINGS = ("cell", "parameters", "MFLOP", "H at equal parameters", "MFLOP there", "engine", "time / LSTM", "equation")


def build(cell: type[Cell], I: int, H: int) -> Cell:  # noqa: E741
    """Return the cell with H units, or with the next number that it accepts, because complex units come in pairs."""
    try:
        return cell(I, H)
    except ValueError:
        return cell(I, H + 1)


def parameters_of(cell: Cell) -> int:
    """Return the number of trained parameters."""
    return sum(parameter.numel() for parameter in cell.parameters())


def width_with(cell: type[Cell], I: int, parameters: int) -> int:  # noqa: E741
    """Return the width with which the number of parameters is closest to ``parameters``."""
    low, high = 1, 2
    while parameters_of(build(cell, I, high)) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters_of(build(cell, I, middle)) < parameters else (low, middle)
    return min((low, high), key=lambda H: abs(parameters_of(build(cell, I, H)) - parameters))


def megaflop(cell: Cell, size: Size) -> str:
    """Return the operations of a training step, in millions."""
    return f"{sum(flops(cell, size.T, size.B)) / 1e6:,.0f}"


def engine_of(cell: Cell) -> str:
    """Return the engine that ``auto`` selects for a cell, or for the LSTM inside it."""
    inner = getattr(cell, "lstm", cell)
    return explain_engine(inner)[0]


def row(name: str, size: Size, repeats: int) -> tuple[str, ...]:
    """Return one row of the table."""
    kind = find_cell(name)
    lstm = find_cell("LSTM")(size.I, size.H)
    cell = build(kind, size.I, size.H)
    H = width_with(kind, size.I, parameters_of(lstm))
    x_BTI = torch.randn(size.B, size.T, size.I)
    seconds = alternate({"cell": training_step(cell, x_BTI), "lstm": training_step(lstm, x_BTI)}, repeats)
    equation = (inspect.getdoc(kind) or "").partition("\n")[0].replace("|", "\\|")
    return (
        name,
        f"{parameters_of(cell):,}",
        megaflop(cell, size),
        str(build(kind, size.I, H).hidden_size),
        megaflop(build(kind, size.I, H), size),
        engine_of(cell),
        str(ratio(seconds["cell"], seconds["lstm"])),
        equation,
    )


def main(args: list[str] | None = None) -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    built_in = [name for name, found in registered_cells().items() if origin(found[0]) == "built in"]
    parser.add_argument("--cells", nargs="+", default=built_in, metavar="NAME")
    parser.add_argument("--size", type=parse_size, default=Size(32, 200, 1, 128), metavar="BxTxIxH")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, metavar="FILE")
    options = parser.parse_args(args)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    size = options.size
    command = "python -m benchmarks.cells_table" + (f" --output {options.output}" if options.output else "")
    lines = [
        "# The cells",
        "",
        f"Made by `{command}` with torch {torch.__version__} and {options.threads} CPU threads; `--help` says what the",
        f"columns are. Batch {size.B}, {size.T} steps, {size.I} input, {size.H} units.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
    ]
    print("\n".join(lines))
    for name in options.cells:
        lines.append(f"| {' | '.join(row(name, size, options.repeats))} |")
        print(lines[-1], flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
