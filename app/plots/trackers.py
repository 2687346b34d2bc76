"""Numbers, figures, sounds and texts in loggers other than TensorBoard, for :class:`app.plots.tensorboard.Board`."""

from __future__ import annotations

import numpy as np
from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger
from torch import Tensor


class Tracker:
    """A logger that shows numbers only, such as CSVLogger: figures, sounds and texts are left out.

    Args:
        logger: The logger. On processes other than rank 0 it does nothing.

    Attributes:
        shows_figures: Whether the logger shows figures.
    """

    shows_figures = False

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        self.logger.log_metrics({name: value}, step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Show an image: bytes of shape (height, width, 3)."""

    def audio(self, name: str, samples: Tensor, rate: int, step: int) -> None:
        """Add a sound: samples in [-1, 1] of one channel."""

    def text(self, name: str, markdown: str, step: int) -> None:
        """Show a text in Markdown."""


class WandbTracker(Tracker):
    """Weights & Biases: media of the run, by name and step."""

    shows_figures = True
    logger: WandbLogger

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.logger.log_image(name, [pixels], step)

    def audio(self, name: str, samples: Tensor, rate: int, step: int) -> None:
        self.logger.log_audio(name, [samples.numpy()], step, sample_rate=[rate])

    def text(self, name: str, markdown: str, step: int) -> None:
        self.logger.log_text(name, columns=["text"], data=[[markdown]], step=step)


class MLflowTracker(Tracker):
    """MLflow: figures and texts are artifacts ``NAME/step-STEP.png`` and ``.md``. Sounds are left out."""

    shows_figures = True
    logger: MLFlowLogger

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, pixels, f"{name}/step-{step:08}.png")

    def text(self, name: str, markdown: str, step: int) -> None:
        self.logger.experiment.log_text(self.logger.run_id, markdown, f"{name}/step-{step:08}.md")


def tracker_of(logger: Logger) -> Tracker:
    """Return the tracker that writes to ``logger``."""
    if isinstance(logger, WandbLogger):
        return WandbTracker(logger)
    return MLflowTracker(logger) if isinstance(logger, MLFlowLogger) else Tracker(logger)
