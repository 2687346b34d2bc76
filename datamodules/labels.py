"""What predictors that do not read the input reach in a classification.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def frequency_losses(train_N: Tensor, labels: Mapping[str, Tensor], num_classes: int) -> dict[str, float]:
    """Return the cross-entropy in nats of predicting the class frequencies (n(c) + 1) / (N + C), by part.

    Args:
        train_N: Labels of the training examples, in which n counts.
        labels: Labels of each part to predict, by name of the part.
        num_classes: Number of classes C.
    """
    counts_C = torch.bincount(train_N, minlength=num_classes).double() + 1
    losses_C = -(counts_C / counts_C.sum()).log()
    return {f"class frequencies, {part}": float(losses_C[labels_N].mean()) for part, labels_N in labels.items()}


def majority_accuracy(train_N: Tensor, labels: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the accuracy of always predicting the most frequent class of the training examples, by part."""
    answer = torch.bincount(train_N).argmax()
    return {part: float((labels_N == answer).double().mean()) for part, labels_N in labels.items()}
