"""A fixed batch on which the cells of a task are looked into, apart from the training.

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

from app.tasks import Task
from cells import Cell
from cells.analysis.recording import Recording, gradients_through_time, norms_through_time, recording
from datamodules import Batch, DataModule

ROWS = 8  # sequences of a probe: the time goes into the steps, not into the rows


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

    All is done on a copy of the task: in float64, so that what vanishes is not rounded to 0; in eval mode, without
    dropout; and from the initial state. The task, the optimiser and the state of the random numbers stay as they are,
    so a run with measurements is bit for bit the run without.

    Args:
        batch: What a data module gives.
        rows: Number of sequences that are taken.
    """

    def __init__(self, batch: Batch, rows: int = ROWS) -> None:
        self.batch = {name: _doubled(entry[:rows].detach().cpu()) for name, entry in batch.items()}

    @classmethod
    def of(cls, data: DataModule) -> Probe:
        """The first sequences of the validation data; the state of the random numbers is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return cls(next(iter(data.val_dataloader())))

    @contextmanager
    def look(self, task: Task) -> Iterator[tuple[Tensor, dict[str, Recording]]]:
        """While the block runs: the loss of a copy of ``task`` on the probe, and what its cells did, by their names.

        Raises:
            ValueError: if the task gives no loss for a probe.
        """
        if not task.supports_probing:
            raise ValueError(f"{type(task).__name__} does not support probing")
        device = torch.device("cpu") if task.device.type == "mps" else task.device  # mps has no float64
        twin = copy.deepcopy(task).to(device).double().eval().requires_grad_(False)
        batch = {name: entry.to(device) for name, entry in self.batch.items()}
        with ExitStack() as stack:
            cuda = [device] if device.type == "cuda" else []
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            records = {name: stack.enter_context(recording(cell)) for name, cell in outermost_cells(twin).items()}
            yield twin.probe_loss(batch), {name: record for name, record in records.items() if record.outputs}

    def measure(self, task: Task) -> Measurement:
        """The gradients through time of ``task`` as it is now."""
        with self.look(task) as (loss, records):
            gradients = gradients_through_time(loss, list(records.values()))
            norms = {
                f"{cell}/{what}": norms_T.cpu().numpy()
                for cell, found in zip(records, gradients, strict=True)
                for what, norms_T in norms_through_time(found).items()
            }
            return Measurement(loss.item(), norms)


def outermost_cells(task: torch.nn.Module) -> dict[str, Cell]:
    """The cells of a task by name, without those that are parts of another cell."""
    found: dict[str, Cell] = {}
    for name, module in task.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, Cell) and not inside:
            found[name] = module
    return found


def vanishing_ratio(norms_T: np.ndarray) -> float:
    """The mean over the first tenth of the steps divided by that over the last; steps after the last gradient left out.

    1 is a flat profile, 0 a gradient that has vanished on its way to the first steps. NaN where there is no gradient.
    """
    norms_T = _to_the_last(norms_T)
    tenth = -(-len(norms_T) // 10)
    return float(norms_T[:tenth].mean() / norms_T[-tenth:].mean()) if tenth else float("nan")


def slope(norms_T: np.ndarray) -> float:
    """The slope of log10 ||dL/dh_t|| against t, by least squares: decades a step, above 0 where gradients vanish.

    NaN where fewer than two steps have a gradient.
    """
    norms_T = _to_the_last(norms_T)
    (steps,) = norms_T.nonzero()
    return float(np.polyfit(steps, np.log10(norms_T[steps]), 1)[0]) if len(steps) > 1 else float("nan")


def _to_the_last(norms_T: np.ndarray) -> np.ndarray:
    """Without the steps that no gradient reaches because a sequence has ended."""
    (steps,) = norms_T.nonzero()
    return norms_T[: steps[-1] + 1] if len(steps) else norms_T[:0]


def _doubled(entry: Tensor) -> Tensor:
    return entry.double() if entry.is_floating_point() else entry
