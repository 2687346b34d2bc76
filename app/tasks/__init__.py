"""Tasks: one LightningModule for each kind of problem that a cell is trained on."""

from app.tasks.base import Task
from app.tasks.classification import SequenceClassifier
from app.tasks.frame_classification import FrameClassifier
from app.tasks.frame_regression import FrameRegressor
from app.tasks.language_modeling import LanguageModel
from app.tasks.sequence_regression import SequenceRegressor

__all__ = ["FrameClassifier", "FrameRegressor", "LanguageModel", "SequenceClassifier", "SequenceRegressor", "Task"]
