"""What it costs to watch a run: measuring the gradients through time, and drawing them, in units of a training step.

    python -m benchmarks.observing
    python -m benchmarks.observing --cells MomentumLSTM DTRIV --sizes 64x64 128x784 --repeats 5

A training step is forward, loss, backward and Adam, of a SequenceClassifier with 128 units on B random sequences of T
numbers, by the engine that ``auto`` takes. A measurement is what a run makes every ``--probe_every`` steps (100 by
default): the copy of the task, the recorded step loop on 8 rows in float64, its gradients. Both alternate in one run;
medians, with the middle half. The share of the training time is the ratio divided by the interval. The pictures, and
the state in numbers, are drawn at the end of a run, and before it unless they took more than 1 % of its time, so their
seconds are given as steps too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.optim import Adam

from app.callbacks.gradient_history import History
from app.diagnostics.probe import Probe
from app.plots.figures import as_array
from app.plots.gradient_figures import history_figure, profile_figure
from app.tasks import SequenceClassifier
from benchmarks.timing import alternate, ratio
from cells import find_cell
from cells.analysis.dynamics import dynamics
from datamodules import Batch

INTERVAL = 100  # optimiser steps between two measurements, the default of the command line


def training_step(task: SequenceClassifier, batch: Batch) -> Callable[[], None]:
    """Forward, loss, backward and Adam."""
    optimizer = Adam(task.parameters())

    def step() -> None:
        optimizer.zero_grad()
        task.probe_loss(batch).backward()
        optimizer.step()

    return step


def showing(task: SequenceClassifier, probe: Probe) -> None:
    """What a run draws and works out of fifty measurements."""
    history = History()
    found = probe.measure(task)  # counted too, once
    for step in range(50):
        history.add(step * INTERVAL, 1.0, found)
    with TemporaryDirectory() as folder:
        history.save(Path(folder) / "gradients.npz")
    norms = history.of_cell("cell")
    as_array(history_figure(norms, history.steps, {"probe": history.probe_loss, "training": history.train_loss}))
    as_array(profile_figure({"step 0": {what: norms_NT[0] for what, norms_NT in norms.items()}}))
    with probe.look(task) as (_, records):
        dynamics(records["cell"], starts=2)


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observing")
    parser.add_argument("--cells", nargs="+", default=["MomentumLSTM", "DTRIV"])
    parser.add_argument("--sizes", nargs="+", default=["64x64", "128x784"], help="BxT, rows and pixels")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(args)
    print(f"{'cell':>14} {'BxT':>9} {'measurement / step':>22} {'share at 100':>13} {'pictures / step':>22}")
    for size in arguments.sizes:
        rows, steps = map(int, size.split("x"))
        batch = {"inputs": torch.rand(rows, steps, 1), "targets": torch.randint(10, (rows,))}
        for name in arguments.cells:
            task = SequenceClassifier(find_cell(name), 1, 10, hidden_size=128)
            probe = Probe(batch)
            functions = {
                "step": training_step(task, batch),
                "measurement": partial(probe.measure, task),
                "pictures": partial(showing, task, probe),
            }
            seconds = alternate(functions, arguments.repeats)
            measurement = ratio(seconds["measurement"], seconds["step"])
            pictures = ratio(seconds["pictures"], seconds["step"])
            share = f"{measurement.median / INTERVAL:.2%}"
            print(f"{name:>14} {size:>9} {measurement!s:>22} {share:>13} {pictures!s:>22}", flush=True)


if __name__ == "__main__":
    main()
