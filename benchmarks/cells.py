"""Time and memory of one training step of each cell, as ratios to torch's own layer and to a plain autograd loop.

    python -m benchmarks.cells
    python -m benchmarks.cells --cells AdamLSTM MomentumLSTM --sizes 128x784x1x128 --repeats 5 --json cells.json

A training step is forward, sum of the outputs, backward, without an optimizer. The engine is the choice of ``auto``;
:mod:`benchmarks.engines` compares the engines. torch's own layer is that of the same core (torch.nn.RNN for the
orthogonal cells). The plain loop is the engine ``reference``. The products are those of the recurrent weight with a
vector of each step, forward and backward, and of its gradient, in memory that exists already: no implementation is
faster. All four alternate in one run, with denormal numbers flushed; ratios are medians, with the middle half of the
repeats. Peak memory is how much the resident memory of a new process grows during the second of two training steps.
The first step has one row, so that loading is not counted. The result is the least of three processes, because the heap
of some processes has holes.
Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.timing import alternate, growth_of, peak_of, ratio
from cells import Cell, find_cell, registered_cells


class Size(NamedTuple):
    """Sizes of a batch and of a cell."""

    B: int
    T: int
    I: int  # noqa: E741
    H: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


SIZES = (Size(128, 784, 1, 128), Size(128, 784, 1, 256), Size(32, 150, 129, 158))


def parse_size(text: str) -> Size:
    """Parse ``BxTxIxH``, for instance ``128x784x1x128``."""
    return Size(*map(int, text.split("x")))


def training_step(layer: nn.Module, x_BTI: Tensor) -> Callable[[], None]:
    """Forward, sum of the outputs, backward."""

    def step() -> None:
        layer(x_BTI)[0].sum().backward()
        layer.zero_grad()

    return step


def products(cell: Cell, size: Size) -> Callable[[], None]:
    """The matrix products with the recurrent weight that a training step consists of."""
    weight_GH = cell.recurrent_weight().detach()
    G, H = weight_GH.shape
    h_HB, z_GB, grad_GH = torch.rand(H, size.B), torch.rand(G, size.B), torch.zeros(G, H)
    back_HG = weight_GH.t().contiguous()

    def step() -> None:
        for _ in range(size.T):
            z_GB.addmm_(weight_GH, h_HB, beta=0)
        for _ in range(size.T):
            h_HB.addmm_(back_HG, z_GB, beta=0)
            grad_GH.addmm_(z_GB, h_HB.t(), beta=0)

    return step


def build(name: str, engine: str, size: Size) -> nn.Module:
    """Return the cell on an engine, or torch's layer for the same core if the engine is ``torch``."""
    if engine == "torch":
        core = next((core for core in ("LSTM", "GRU") if name.endswith(core)), "RNN")
        layer: nn.Module = getattr(nn, core)(size.I, size.H, batch_first=True)
        return layer
    cell: Callable[..., Cell] = find_cell(name)
    return cell(size.I, size.H, engine=engine)


def measure(name: str, size: Size, repeats: int) -> dict[str, object]:
    """Measure one row of the table."""
    x_BTI = torch.randn(size.B, size.T, size.I)
    engines = ("auto", "torch", "reference")
    steps = {engine: training_step(build(name, engine, size), x_BTI) for engine in engines}
    seconds = alternate({**steps, "products": products(find_cell(name)(size.I, size.H), size)}, repeats)
    threads = str(torch.get_num_threads())
    peak = {
        engine: min(
            peak_of(["-m", "benchmarks.cells", "--peak", name, engine, str(size), "--threads", threads])
            for _ in range(3)
        )
        for engine in ("auto", "reference")
    }
    return {
        "cell": name,
        "size": str(size),
        "milliseconds": 1000 * min(seconds["auto"]),
        "to_torch": ratio(seconds["auto"], seconds["torch"]),
        "to_loop": ratio(seconds["auto"], seconds["reference"]),
        "products_to_loop": ratio(seconds["products"], seconds["reference"]),
        "peak_MB": peak["auto"],
        "loop_peak_MB": peak["reference"],
    }


def print_peak(name: str, engine: str, size: Size) -> None:
    """Print the growth of memory, for :func:`peak_of`."""
    layer = build(name, engine, size)
    training_step(layer, torch.randn(1, size.T, size.I))()
    print(growth_of(training_step(layer, torch.randn(size.B, size.T, size.I))))


def main(args: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=list(registered_cells()), metavar="NAME")
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=SIZES, metavar="BxTxIxH")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)  # a measurement of memory in its own process
    options = parser.parse_args(args)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    if options.peak:
        name, engine, size = options.peak
        print_peak(name, engine, parse_size(size))
        return
    rows = []
    print(
        f"{'cell':14} {'BxTxIxH':>15} {'ms':>6} {'/ torch':>18} {'/ loop':>18} {'products / loop':>18} "
        f"{'MB':>6} {'/ loop':>6}"
    )
    for size in options.sizes:
        for name in options.cells:
            row = measure(name, size, options.repeats)
            rows.append(row)
            memory = row["peak_MB"] / row["loop_peak_MB"]
            print(
                f"{name:14} {row['size']:>15} {row['milliseconds']:6.0f} {row['to_torch']!s:>18} "
                f"{row['to_loop']!s:>18} {row['products_to_loop']!s:>18} {row['peak_MB']:6.0f} {memory:6.2f}",
                flush=True,
            )
    if options.json:
        versions = {"torch": torch.__version__, "threads": options.threads, "repeats": options.repeats}
        rows = [{k: v._asdict() if isinstance(v, tuple) else v for k, v in row.items()} for row in rows]
        options.json.write_text(json.dumps({**versions, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
