"""``python -m app diagnose``: what the cells of trained models do, as one page of HTML.

Shapes: T time, I input_size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from app.callbacks.gradient_history import History
from app.commands.console import say
from app.commands.lightning_cli import load_trained
from app.diagnostics.probe import Measurement, Probe
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from app.runs.run_directory import RunDirectory
from cells.analysis.dynamics import Dynamics, dynamics
from cells.analysis.jacobians import Jacobians, jacobians
from datamodules.files import replacing


@dataclass(frozen=True)
class Diagnosis:
    """What was found of one checkpoint.

    Attributes:
        name: What tells it apart from the others on the page.
        path: The checkpoint.
        task: Name of the task's class.
        data: Name of the data module's class.
        epoch: The epoch after which it was written.
        cells: The cells by their name in the task, each in words: class, sizes, arguments.
        parameters: Number of parameters of the task.
        measurement: Gradients through time on the probe.
        dynamics: The state in numbers, by cell.
        jacobians: dh_T/dh_t on the first sequence of the probe, by cell.
        history: The measurements of the training, if the run wrote them.
    """

    name: str
    path: Path
    task: str
    data: str
    epoch: int
    cells: dict[str, str]
    parameters: int
    measurement: Measurement
    dynamics: dict[str, Dynamics]
    jacobians: dict[str, Jacobians]
    history: History | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def diagnose(options: Sequence[str]) -> None:
    """Write a page about one or several checkpoints, side by side.

    Raises:
        UserError: for a bad option, a checkpoint that cannot be read, or a file that cannot be written.
    """
    parser = _Parser(
        prog="python -m app diagnose",
        description="Write one page of HTML about the cells of trained models: gradients through time, the state in "
        "numbers, Jacobians beside what theory says of them.",
    )
    parser.add_argument("--ckpt_path", action="append", help="a checkpoint; again for another one beside it")
    parser.add_argument("--config", help="the configuration, for checkpoints whose run directory has none")
    parser.add_argument("--output", default="report.html", help="file to write (default: report.html)")
    arguments = parser.parse_args(options)
    if not arguments.ckpt_path:
        raise UserError("diagnose needs --ckpt_path FILE, such as RUN/checkpoints/best.ckpt, once or several times")
    output = Path(arguments.output)
    if output.suffix != ".html":
        raise UserError(f"output is '{output}'; a file that ends in .html is expected")
    if not output.parent.is_dir():
        raise UserError(f"output is '{output}', but there is no folder '{output.parent}'")
    paths = [Path(path) for path in arguments.ckpt_path]
    found = []
    for path, name in zip(paths, short_names(paths), strict=True):
        say(f"{name}: {path}")
        found.append(examine(path, name, arguments.config))

    from app.diagnostics.page import page

    try:
        with replacing(output) as temporary:
            temporary.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    say(f"report: {output}")


def examine(path: Path, name: str, config: str | None = None) -> Diagnosis:
    """Measure the checkpoint ``path`` on the first sequences of its validation data.

    Raises:
        UserError: if it cannot be read or does not fit its configuration, or its task cannot be looked into.
    """
    task, data = load_trained(path, config)
    probe = Probe.of(data)
    try:
        measurement = probe.measure(task)
    except ValueError as error:
        raise UserError(str(error)) from error
    with probe.look(task) as (_, records):
        states = {cell: dynamics(record) for cell, record in records.items()}
        inputs = {cell: torch.stack([x_BI[0].detach() for x_BI in record.inputs]) for cell, record in records.items()}
        modules = {cell: record.cell for cell, record in records.items()}
    arrays = RunDirectory.of_checkpoint(path).gradients
    return Diagnosis(
        name=name,
        path=path,
        task=type(task).__name__,
        data=type(data).__name__,
        epoch=read_checkpoint(path)["epoch"],
        cells={cell: f"{type(module).__name__}({module.extra_repr()})" for cell, module in modules.items()},
        parameters=sum(parameter.numel() for parameter in task.parameters()),
        measurement=measurement,
        dynamics=states,
        jacobians={cell: jacobians(module, inputs[cell]) for cell, module in modules.items()},
        history=History.load(arrays) if arrays.is_file() else None,
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """What is different in the paths: the run's folder, or as much of the path as tells all of them apart."""
    parts = [path.absolute().parts for path in paths]
    if len(paths) == 1:
        return [RunDirectory.of_checkpoint(paths[0].absolute()).path.name or str(paths[0])]
    different = [index for index in range(max(map(len, parts))) if len({part[index : index + 1] for part in parts}) > 1]
    return ["/".join(part[index] for index in different if index < len(part)) for part in parts]
