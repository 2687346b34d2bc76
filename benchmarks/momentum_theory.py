r"""Does momentum keep gradients from vanishing? Jacobians of networks, measured and by theory.

    python -m app sweep configs/studies/digits_gain_one.yaml --workers 2
    python -m benchmarks.momentum_theory configs/studies/digits_gain_one.yaml --output momentum_theory.csv

Every run with a reporting seed gives two rows, before and after training. Each number is a spectral norm between the
first step, t = 1, and the last, T, geometrically averaged over the first eight validation sequences, in float64:

- ``measured``: dh_T/dh_1 for a fixed drive, by which back-propagation multiplies;
- ``published``: the product of D_{k+1} (U + mu Sigma_k) in the analysis of Nguyen et al.;
- ``through_drive``: what a change that enters by the drive at step 1 does to h_T;
- ``input``: mean ||dL/dx_t|| over the first tenth of the steps divided by that over the last tenth.

See :mod:`cells.analysis.jacobians` for the formulas.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
from pathlib import Path

import torch
from torch import Tensor

from app.commands.session import load_trained
from app.diagnostics.probe import Probe, vanishing_ratio
from app.lab.directory import study_directory
from app.lab.gathering import gather
from app.lab.reading import read_study
from app.tasks import Task
from cells.analysis.jacobians import jacobians

NORMS = ("measured", "published", "through_drive")


def norms(task: Task, probe: Probe) -> dict[str, float]:
    """Return the momentum, the norms and the ratio of a task with one tanh network with momentum."""
    with probe.look(task) as (_, records):
        (record,) = records.values()
        sequences = torch.stack([x_BI.detach() for x_BI in record.inputs], dim=1)
    found = [jacobians(record.cell, x_TI, points=2) for x_TI in sequences]
    measured = {"momentum": record.cell.tanh_network().momentum}
    measured |= {name: _geometric_mean([getattr(item, name)[0] for item in found]) for name in NORMS}
    by_name = probe.measure(task).norms
    return measured | {"input": vanishing_ratio(by_name[next(name for name in by_name if name.endswith("/x"))])}


def _geometric_mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).log().mean().exp())


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.momentum_theory")
    parser.add_argument("study", type=Path, help="a study of MomentumRNN that has run")
    parser.add_argument("--dir", type=Path, help="directory of the study (default: that of sweep)")
    parser.add_argument("--output", type=Path, help="CSV file to write (default: the terminal)")
    arguments = parser.parse_args(args)
    study = read_study(arguments.study)
    rows = []
    for results in gather(study, study_directory(study.name, arguments.dir)).arms:
        for run in results.reporting:
            if run.status != "complete":
                continue
            task, data = load_trained(run.path / "checkpoints" / "best.ckpt")
            probe = Probe.of(data)
            torch.manual_seed(run.seed)
            fresh = copy.deepcopy(task)
            for module in fresh.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            for when, one in (("before", fresh), ("after", task)):
                row = {"arm": results.label, "seed": run.seed, "training": when}
                rows.append(row | {name: f"{value:.6g}" for name, value in norms(one, probe).items()})
    with arguments.output.open("w", newline="") if arguments.output else sys.stdout as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
