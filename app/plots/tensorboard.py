"""The TensorBoard logger of a run, and the board on which tasks and callbacks show figures, sounds and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from app.plots.figures import as_array
from app.plots.trackers import tracker_of

MAIN_GROUPS = ("train", "validation", "test")
OTHERS = "watch_"  # sorts after the main groups


def tag_of(name: str) -> str:
    """Return the tag under which TensorBoard shows a metric, figure or text.

    TensorBoard groups tags by the part before the first slash and sorts the groups by name. The names of all groups
    but ``train``, ``validation`` and ``test`` get a prefix, so that these three come first.
    """
    return name if name.startswith((*(f"{group}/" for group in MAIN_GROUPS), OTHERS)) else f"{OTHERS}{name}"


class RunLogger(TensorBoardLogger):
    """TensorBoardLogger that shows losses and accuracies before all other groups (:func:`tag_of`).

    Only the tags in TensorBoard change. Names of metrics in callbacks and results stay as they are.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({tag_of(name): value for name, value in metrics.items()}, step)

    def log_hyperparams(self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None) -> None:
        # TensorBoard's table of hyperparameters finds a metric by its tag
        super().log_hyperparams(params, metrics and {tag_of(name): value for name, value in metrics.items()}, step)


class Board:
    """The loggers of a run at its current step.

    TensorBoard shows everything. What the others show is in :mod:`app.plots.trackers`. Only the process of rank 0
    writes. Other processes can call the same methods.

    Args:
        trainer: The trainer of the run.

    Attributes:
        enabled: Whether a logger of the run shows figures. The same in all processes.
        step: Number of optimizer steps done; during a validation, the index of the step before it.
    """

    def __init__(self, trainer: Trainer) -> None:
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        self._trackers = [tracker_of(logger) for logger in trainer.loggers if logger not in boards]
        self.enabled = bool(boards) or any(tracker.shows_figures for tracker in self._trackers)
        # a validation during training belongs to the step before it, as Lightning's metrics do
        self.step = max(trainer.global_step - trainer.validating, 0)
        self._writers: list[SummaryWriter] = [logger.experiment for logger in boards]

    def scalar(self, name: str, value: float) -> None:
        """Add a point to a curve."""
        for writer in self._writers:
            writer.add_scalar(tag_of(name), value, self.step)
        for tracker in self._trackers:
            tracker.scalar(name, value, self.step)

    def figure(self, name: str, figure: Figure) -> None:
        """Show a matplotlib figure."""
        if self.enabled:
            self.image(name, as_array(figure))

    def image(self, name: str, pixels: np.ndarray) -> None:
        """Show an image: bytes of shape (height, width, 3)."""
        for writer in self._writers:
            writer.add_image(tag_of(name), pixels, self.step, dataformats="HWC")
        for tracker in self._trackers:
            tracker.image(name, pixels, self.step)

    def audio(self, name: str, samples: Tensor, rate: int) -> None:
        """Add a sound: samples in [-1, 1] of one channel, ``rate`` per second."""
        for writer in self._writers:
            writer.add_audio(tag_of(name), samples, self.step, sample_rate=rate)
        for tracker in self._trackers:
            tracker.audio(name, samples, rate, self.step)

    def text(self, name: str, markdown: str) -> None:
        """Show a text in Markdown."""
        for writer in self._writers:
            writer.add_text(tag_of(name), markdown, self.step)
        for tracker in self._trackers:
            tracker.text(name, markdown, self.step)
