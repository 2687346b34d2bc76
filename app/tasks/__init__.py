"""Tasks: what a cell is trained to do, one LightningModule each."""

from app.tasks.base import Task
from app.tasks.classification import SequenceClassifier
from app.tasks.language_modelling import LanguageModel

__all__ = ["LanguageModel", "SequenceClassifier", "Task"]
