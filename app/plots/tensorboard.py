"""Where a task shows what it makes: TensorBoard, if the run has it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from app.plots.figures import as_array


class Board:
    """TensorBoard at the present step of a run; nothing happens where the run has no TensorBoardLogger.

    Only the first process writes; the others may call the same methods.

    Args:
        trainer: The trainer whose loggers and whose count of optimiser steps are used.

    Attributes:
        there: Whether anything is shown; what is costly to make can be left out where it is False. The same in all
            processes.
        step: Optimiser steps done, under which everything is shown.
    """

    def __init__(self, trainer: Trainer) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        self.there = bool(loggers)
        self.step = trainer.global_step
        self._writers: list[SummaryWriter] = [logger.experiment for logger in loggers]

    def scalar(self, name: str, value: float) -> None:
        """A point of a curve."""
        for writer in self._writers:
            writer.add_scalar(name, value, self.step)

    def figure(self, name: str, figure: Figure) -> None:
        """A figure, such as the functions of :mod:`app.plots.figures` make."""
        if self.there:
            self.image(name, as_array(figure))

    def image(self, name: str, picture: np.ndarray) -> None:
        """A picture: an array of bytes of shape (height, width, 3)."""
        for writer in self._writers:
            writer.add_image(name, picture, self.step, dataformats="HWC")

    def audio(self, name: str, samples: Tensor, rate: int) -> None:
        """A sound: samples in [-1, 1], one channel, ``rate`` a second."""
        for writer in self._writers:
            writer.add_audio(name, samples, self.step, sample_rate=rate)

    def text(self, name: str, markdown: str) -> None:
        """A text, in Markdown."""
        for writer in self._writers:
            writer.add_text(name, markdown, self.step)
