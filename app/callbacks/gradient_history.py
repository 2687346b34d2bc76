"""The measured gradients through time of a run.

Shapes: N measurements, T time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from app.diagnostics.probe import Measurement
from app.errors import UserError
from datamodules.files import replacing

CURVES = ("steps", "probe_loss", "train_loss")


class History:
    """Measurements of gradients through time, in the order of the training.

    Attributes:
        steps: Number of optimizer steps before each measurement.
        probe_loss: Loss on the probe.
        train_loss: Mean loss of the training batches since the previous measurement; NaN for the first one.
        norms: Norms (T,) at each time step, by ``CELL/h``, ``CELL/x``, ..: see
            :class:`app.diagnostics.probe.Measurement`.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.probe_loss: list[float] = []
        self.train_loss: list[float] = []
        self.norms: dict[str, list[np.ndarray]] = {}

    def add(self, step: int, train_loss: float, found: Measurement) -> None:
        """Append a measurement."""
        self.steps.append(step)
        self.train_loss.append(train_loss)
        self.probe_loss.append(found.loss)
        for name, norms_T in found.norms.items():
            self.norms.setdefault(name, []).append(norms_T)

    def of_cell(self, cell: str) -> dict[str, np.ndarray]:
        """Return the norms (N, T) of one cell, by ``h``, ``x``, .."""
        parts = {name.rpartition("/")[::2]: norms for name, norms in self.norms.items()}
        return {what: np.stack(norms) for (name, what), norms in parts.items() if name == cell}

    @property
    def cells(self) -> list[str]:
        """Names of the cells."""
        return list(dict.fromkeys(name.rpartition("/")[0] for name in self.norms))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the curves (N,) and the norms (N, T) by name."""
        curves = {name: np.array(getattr(self, name)) for name in CURVES}
        return curves | {name: np.stack(norms) for name, norms in self.norms.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> History:
        """Return the history with these :meth:`arrays`."""
        history = cls()
        for name in CURVES:
            setattr(history, name, arrays[name].tolist())
        history.norms = {name: list(norms_NT) for name, norms_NT in arrays.items() if name not in CURVES}
        return history

    def save(self, path: Path) -> None:
        """Write :meth:`arrays` to an .npz file."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **self.arrays())  # type: ignore[arg-type]  # no array has the name of an option of savez

    @classmethod
    def load(cls, path: Path) -> History:
        """Read a file that :meth:`save` wrote.

        Raises:
            UserError: if the file cannot be read.
        """
        try:
            with np.load(path) as arrays:
                return cls.from_arrays(dict(arrays))
        except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
            raise UserError(f"the measurements in {path} cannot be read: {type(error).__name__}") from error

    def state_dict(self) -> dict[str, Any]:
        """Return the history as tensors, for a checkpoint."""
        return {name: torch.from_numpy(array) for name, array in self.arrays().items()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> History:
        """Return the history of a checkpoint."""
        return cls.from_arrays({name: tensor.numpy() for name, tensor in state.items()})
