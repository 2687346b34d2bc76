"""A fixed batch on which the cells of a task are measured, without an effect on the training.

Shapes: T time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.errors import UserError
from app.tasks import Task
from cells import Cell
from cells.analysis.recording import Recording, gradients_through_time, norms_through_time, recording
from datamodules import Batch, DataModule

ROWS = 8  # sequences of a probe; the cost depends on the steps more than on the rows


@dataclass(frozen=True)
class Measurement:
    """Gradients through time on a probe.

    Attributes:
        loss: L, the task's loss on the probe.
        norms: ||dL/dh_t||, ||dL/dx_t||, ||dL/dc_t||, .. over the steps, of shape (T,), by ``CELL/h``, ``CELL/x``, ..,
            where CELL is the name of the cell in the task.
    """

    loss: float
    norms: dict[str, np.ndarray]


class Probe:
    """The first sequences of a batch, kept for the whole run.

    Measurements use a copy of the task: in float64, so that vanishing gradients are not rounded to 0; in eval mode,
    without dropout; from the initial state. The task, the optimizer and the random generators are unchanged, so the
    losses of a run are bitwise identical with and without measurements.

    Args:
        batch: A batch of a data module.
        rows: Number of sequences to keep.
    """

    def __init__(self, batch: Batch, rows: int = ROWS) -> None:
        self.batch = {name: _as_double(entry[:rows].detach().cpu()) for name, entry in batch.items()}

    @classmethod
    def of(cls, data: DataModule) -> Probe:
        """Return a probe of the first validation sequences. The random generators are unchanged."""
        with torch.random.fork_rng(devices=[]):
            return cls(next(iter(data.val_dataloader())))

    @contextmanager
    def look(self, task: Task) -> Iterator[tuple[Tensor, dict[str, Recording]]]:
        """Yield the loss of a copy of ``task`` on the probe, and recordings of its cells by name.

        Raises:
            ValueError: if the task does not support probing.
            UserError: if the task cannot be copied.
        """
        if not task.supports_probing:
            raise ValueError(f"{type(task).__name__} does not support probing")
        device = torch.device("cpu") if task.device.type == "mps" else task.device  # mps has no float64
        try:
            twin = copy.deepcopy(task)
        except Exception as error:  # a part of the task, or of a hook on it, may refuse with any exception
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"gradients through time are measured on a copy of the task, which cannot be copied: {reason}. Switch "
                "them off with --probe_every 0."
            ) from error
        twin = twin.to(device).double().eval().requires_grad_(False)
        batch = {name: entry.to(device) for name, entry in self.batch.items()}
        with ExitStack() as stack:
            cuda = [device] if device.type == "cuda" else []
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            records = {name: stack.enter_context(recording(cell)) for name, cell in outermost_cells(twin).items()}
            yield twin.probe_loss(batch), {name: record for name, record in records.items() if record.outputs}

    def measure(self, task: Task) -> Measurement:
        """Return the gradients through time of ``task``."""
        with self.look(task) as (loss, records):
            gradients = gradients_through_time(loss, list(records.values()))
            norms = {
                f"{cell}/{what}": norms_T.cpu().numpy()
                for cell, found in zip(records, gradients, strict=True)
                for what, norms_T in norms_through_time(found).items()
            }
            return Measurement(loss.item(), norms)


def outermost_cells(task: torch.nn.Module) -> dict[str, Cell]:
    """Return the cells of a task by name, except those that are parts of another cell."""
    found: dict[str, Cell] = {}
    for name, module in task.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, Cell) and not inside:
            found[name] = module
    return found


def vanishing_ratio(norms_T: np.ndarray) -> float:
    """Return the mean norm over the first tenth of the steps divided by that over the last tenth.

    Steps after the last nonzero gradient are ignored. 1 is a flat profile; near 0 the gradient vanishes before it
    reaches the first steps. NaN if there is no gradient.
    """
    norms_T = _without_tail(norms_T)
    tenth = -(-len(norms_T) // 10)
    return float(norms_T[:tenth].mean() / norms_T[-tenth:].mean()) if tenth else float("nan")


def slope(norms_T: np.ndarray) -> float:
    """Return the least-squares slope of log10 ||dL/dh_t|| against t in decades per step: positive if gradients vanish.

    NaN if fewer than two steps have a gradient.
    """
    norms_T = _without_tail(norms_T)
    (steps,) = norms_T.nonzero()
    return float(np.polyfit(steps, np.log10(norms_T[steps]), 1)[0]) if len(steps) > 1 else float("nan")


def _without_tail(norms_T: np.ndarray) -> np.ndarray:
    """Return the norms without the steps that no gradient reaches because the sequences have ended."""
    (steps,) = norms_T.nonzero()
    return norms_T[: steps[-1] + 1] if len(steps) else norms_T[:0]


def _as_double(entry: Tensor) -> Tensor:
    return entry.double() if entry.is_floating_point() else entry
