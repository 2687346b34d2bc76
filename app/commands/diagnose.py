"""``python -m app diagnose``: an HTML report on the cells of trained models.

Shapes: B batch, T time, I input_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from app.callbacks.gradient_history import History
from app.commands.console import Parser, echo
from app.commands.session import load_trained
from app.diagnostics.page import page
from app.diagnostics.probe import Measurement, Probe
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from app.runs.run_directory import RunDirectory
from cells.analysis.dynamics import Dynamics, dynamics
from cells.analysis.jacobians import Jacobians, jacobians
from cells.denormals import denormal_setting_restored
from datamodules.files import replacing


@dataclass(frozen=True)
class Diagnosis:
    """Measurements of one checkpoint.

    Attributes:
        name: Label that distinguishes it from the others in the report.
        path: The checkpoint.
        task: Name of the task's class.
        data: Name of the data module's class.
        epoch: The epoch after which it was written.
        cells: For each cell of the task its class, sizes and arguments as a text.
        parameters: Number of parameters of the task.
        measurement: Gradients through time on the probe.
        dynamics: Statistics of the hidden state, by cell.
        jacobians: dh_T/dh_t on the first sequence of the probe, by cell.
        history: Measurements during training, if the run wrote them.
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


@denormal_setting_restored()
def diagnose(options: Sequence[str]) -> None:
    """Write a report on one or several checkpoints, side by side.

    Raises:
        UserError: for an invalid option, a checkpoint that cannot be read, or a file that cannot be written.
    """
    parser = Parser(
        prog="python -m app diagnose",
        description="Write an HTML report on the cells of trained models: gradients through time, statistics of the "
        "hidden state, and Jacobians compared with theory.",
    )
    parser.add_argument("--ckpt_path", action="append", help="a checkpoint; repeat the option to compare several")
    parser.add_argument("--config", type=str | None, help="configuration of checkpoints without a run directory")
    parser.add_argument("--output", type=str, default="report.html", help="file to write")
    arguments = parser.parse_args(options)
    if not arguments.ckpt_path:
        raise UserError("--ckpt_path must be given once or several times, such as RUN/checkpoints/best.ckpt")
    output = Path(arguments.output)
    if output.suffix != ".html":
        raise UserError(f"output must end in .html, got '{output}'")
    if not output.parent.is_dir():
        raise UserError(f"the directory '{output.parent}' of output '{output}' does not exist")
    paths = [Path(path) for path in arguments.ckpt_path]
    found = []
    for path, name in zip(paths, run_names(paths), strict=True):
        echo(f"{name}: {path}")
        found.append(examine(path, name, arguments.config))
    try:
        with replacing(output) as temporary:
            temporary.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    echo(f"report: {output}")


def examine(path: Path, name: str, config: str | None = None) -> Diagnosis:
    """Measure the checkpoint ``path`` on the first sequences of its validation data.

    Raises:
        UserError: if it cannot be read, contradicts its configuration, or its task does not support probing.
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


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the runs that wrote the checkpoints.

    If two names are equal, the parts of the paths that differ are returned.
    """
    names = [RunDirectory.of_checkpoint(path.absolute()).path.name or str(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    parts = [path.absolute().parts for path in paths]
    different = [index for index in range(max(map(len, parts))) if len({part[index : index + 1] for part in parts}) > 1]
    return ["/".join(part[index] for index in different if index < len(part)) or str(path)
            for part, path in zip(parts, paths, strict=True)]  # fmt: skip
