"""Tasks: what a cell is trained to do, one LightningModule each."""

from app.tasks.base import Task
from app.tasks.classification import SequenceClassifier

__all__ = ["SequenceClassifier", "Task"]
