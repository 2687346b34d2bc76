"""Time of an optimiser step of the 24-million-parameter language model, as ratios to a plain torch.nn.LSTM model.

    python -m benchmarks.language_model
    python -m benchmarks.language_model --cells LSTM MomentumLSTM --repeats 9 --json language_model.json

The plain model is what one writes without this program: torch.nn.Embedding, three torch.nn.LSTM, torch.nn.Linear tied
to the embedding, the same dropouts (on the recurrent weights by torch.func.functional_call), the same penalties. A step
is forward, backward, clipping and SGD with weight decay on a window of 70 steps of 20 rows, the state carried. Both are
bare of Lightning, which adds the same to both. All models alternate in one run; ratios are medians, with the middle
half of the repeats. The last line is the time in which the data module makes the batch, as a share of a step.

Shapes: B batch, T time, H features.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD

from app.optim.nt_asgd import NTASGD
from app.tasks import LanguageModel
from benchmarks.timing import alternate, ratio
from cells import find_cell
from datamodules.base import Batch
from datamodules.text.streams import Rows, Window

WORDS, ROWS, STEPS, SIZES = 10_000, 20, 70, (400, 1150, 1150, 400)


class Plain(nn.Module):
    """The model of AWD-LSTM in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, SIZES[0])
        self.layers = nn.ModuleList(nn.LSTM(below, size, batch_first=True) for below, size in pairwise(SIZES))
        self.decoder = nn.Linear(SIZES[-1], WORDS)
        self.decoder.weight = self.embedding.weight

    def forward(self, words_BT: Tensor, states: list[Any]) -> tuple[Tensor, Tensor, Tensor, list[Any]]:
        mask = torch.empty(WORDS, 1).bernoulli_(0.9).div_(0.9)
        y = locked(F.embedding(words_BT, self.embedding.weight * mask), 0.4)
        after = []
        for number, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            weight = {"weight_hh_l0": F.dropout(layer.get_parameter("weight_hh_l0"), 0.5)}
            raw_BTH, state = functional_call(layer, weight, (y, state))
            after.append(tuple(leaf.detach() for leaf in state))
            y = locked(raw_BTH, 0.25 if number < 2 else 0.4)
        return self.decoder(y), raw_BTH, y, after


def locked(x_BTH: Tensor, p: float) -> Tensor:
    """Dropout of the same features in all steps."""
    return x_BTH * x_BTH.new_empty(x_BTH.shape[0], 1, x_BTH.shape[2]).bernoulli_(1 - p).div_(1 - p)


def plain_step(batch: Batch) -> Callable[[], None]:
    """An optimiser step of the plain model."""
    model = Plain()
    optimizer = SGD(model.parameters(), lr=1.0, weight_decay=1.2e-6)
    states: list[Any] = [tuple(torch.zeros(2, 1, ROWS, size).unbind(0)) for size in SIZES[1:]]

    def step() -> None:
        nonlocal states
        logits, raw_BTH, dropped_BTH, states = model(batch["inputs"], states)
        loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        loss = loss + 2 * dropped_BTH.square().mean() + (raw_BTH[:, 1:] - raw_BTH[:, :-1]).square().mean()
        finish(model, optimizer, loss)

    return step


def model_step(name: str, batch: Batch) -> Callable[[], None]:
    """An optimiser step of the language model with a cell, as configs/ptb has it."""
    arguments = {"momentum": 0.0} if name.startswith("Momentum") else {}
    model = LanguageModel(partial(find_cell(name), **arguments), vocabulary_size=WORDS)
    model.log_part = lambda *args, **metrics: None  # type: ignore[method-assign]  # there is no trainer to log to
    optimizer = NTASGD(model.parameters(), lr=1.0, weight_decay=1.2e-6)
    return lambda: finish(model, optimizer, model.training_step(batch, 0))


def finish(model: nn.Module, optimizer: SGD, loss: Tensor) -> None:
    """Backward, clipping, optimiser."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()


def main(args: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["LSTM", "MomentumLSTM"], metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu_time", action="store_true", help="the processor's time, for a machine that is shared")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(args)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    rows = Rows(np.random.RandomState(0).randint(0, WORDS, 930_000).astype(np.int32), ROWS)
    window = Window(STEPS, 2 * STEPS)
    batch = rows[window]
    steps = {"torch.nn.LSTM": plain_step(batch)} | {name: model_step(name, batch) for name in options.cells}
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds = alternate({**steps, "data": lambda: rows[window]}, options.repeats, clock)
    found: dict[str, object] = {"torch": torch.__version__, "threads": options.threads, "repeats": options.repeats}
    print(f"{'model':14} {'s':>6} {'/ torch.nn.LSTM':>18}")
    for name in steps:
        to_plain = ratio(seconds[name], seconds["torch.nn.LSTM"])
        found[name] = {"seconds": min(seconds[name]), "to_plain": to_plain._asdict()}
        print(f"{name:14} {min(seconds[name]):6.2f} {to_plain!s:>18}", flush=True)
    found["data"] = min(seconds["data"]) / min(seconds["torch.nn.LSTM"])
    print(f"data: {100 * found['data']:.3f} % of a step")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
