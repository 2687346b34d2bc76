"""Time of one training step of a cell under each engine, as a ratio to torch's own LSTM layer.

    python -m benchmarks.engines
    python -m benchmarks.engines --sizes 20x70x400x1150 --cells LSTM --engines fused library --repeats 5

A training step is forward, sum of the outputs, backward. All engines and torch.nn.LSTM alternate in one run; ratios are
medians, with the middle half of the repeats. The last column is the median time of torch.nn.LSTM. Denormal numbers are
flushed to 0. ``Leaky`` is the cell of the README: a user's own step.
Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

import argparse
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.cells import SIZES, Size, parse_size, training_step
from benchmarks.timing import alternate, ratio
from cells import Cell, find_cell

PENN_TREEBANK = Size(20, 70, 400, 1150)
CELLS = [
    *("LSTM", "MomentumLSTM", "AdamLSTM", "RMSPropLSTM", "Leaky"),
    *("MinGRU", "MinLSTM", "LRU", "SLSTM", "LEM", "CfC"),
]


class Leaky(Cell):
    """h_t = leak h_{t-1} + (1 - leak) tanh(W x_t + U h_{t-1} + b)."""

    def __init__(self, input_size: int, hidden_size: int, *, leak: float = 0.5) -> None:
        super().__init__(input_size, hidden_size)
        self.leak = leak
        self.from_input = nn.Linear(input_size, hidden_size)
        self.from_hidden = nn.Linear(hidden_size, hidden_size, bias=False)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.from_hidden.weight.new_zeros(batch_size, self.hidden_size)

    def step(self, x_BI: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        update_BH = torch.tanh(self.from_input(x_BI) + self.from_hidden(state))
        h_BH = self.leak * state + (1 - self.leak) * update_BH
        return h_BH, h_BH


class ByLoop(nn.Module):
    """A cell that computes by its step loop."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_BTI: Tensor) -> tuple[Tensor, object]:
        return self.cell.loop(x_BTI, self.cell.initial_state(len(x_BTI)))


def build(name: str, engine: str, size: Size) -> nn.Module | None:
    """Return a cell that runs on an engine, or None if it cannot."""
    cell = Leaky if name == "Leaky" else find_cell(name)
    if engine == "reference":
        return ByLoop(cell(size.I, size.H))
    if name == "Leaky":
        return cell(size.I, size.H) if engine == "fused" else None
    try:
        return cell(size.I, size.H, engine=engine)  # type: ignore[call-arg]  # of cells with engines
    except ValueError:
        return None


def main(args: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=CELLS)
    parser.add_argument("--engines", nargs="+", default=["fused", "library", "scan", "reference"])
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=[*SIZES, PENN_TREEBANK], metavar="BxTxIxH")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(args)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    print(
        f"{'cell':14} {'BxTxIxH':>15} " + " ".join(f"{engine:>18}" for engine in [*options.engines, "torch, seconds"])
    )
    for size in options.sizes:
        x_BTI = torch.randn(size.B, size.T, size.I)
        for name in options.cells:
            layers = {engine: build(name, engine, size) for engine in options.engines}
            steps = {engine: training_step(layer, x_BTI) for engine, layer in layers.items() if layer is not None}
            steps["torch"] = training_step(nn.LSTM(size.I, size.H, batch_first=True), x_BTI)
            seconds = alternate(steps, options.repeats)
            ratios = [str(ratio(seconds[e], seconds["torch"])) if e in seconds else "-" for e in options.engines]
            ratios.append(f"{median(seconds['torch']):.4f}")
            print(f"{name:14} {size!s:>15} " + " ".join(f"{entry:>18}" for entry in ratios), flush=True)


if __name__ == "__main__":
    main()
