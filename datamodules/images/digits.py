"""Handwritten digits of 8 x 8 pixels from scikit-learn, as sequences of pixels.

Shapes: B examples, T 64 pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.base import DataModule, TensorsDataset


class Digits(DataModule):
    """1,797 images of handwritten digits (8 x 8, 17 gray levels) as sequences of 64 pixels, row by row.

    The images are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).
    scikit-learn contains them, so nothing is downloaded. The split is fixed and stratified by digit: 1,257 training,
    180 validation and 360 test images. It does not depend on the seed. Pixels are scaled to [0, 1].

    Args:
        root: Not used.
        batch_size: Images in a batch of each process.
    """

    input_size = 1
    num_classes = 10
    provided_sizes = ("input_size", "num_classes")

    def __init__(self, root: str | None = None, batch_size: int = 64) -> None:
        super().__init__(root, batch_size)

    @property
    def description(self) -> dict[str, Any]:
        sizes = {part: len(getattr(self, part)) for part in ("train", "validation", "test")}
        return {"order": "row by row", "scaling": "gray level / 16", "split": sizes}

    def images(self, inputs: Tensor) -> Tensor:
        return inputs.view(-1, 8, 8)

    def setup(self, stage: str | None = None) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        rest, test, rest_labels, test_labels = train_test_split(
            images, labels, test_size=360, stratify=labels, random_state=0
        )
        train, validation, train_labels, validation_labels = train_test_split(
            rest, rest_labels, test_size=180, stratify=rest_labels, random_state=0
        )
        self.train, self.validation, self.test = (
            TensorsDataset(
                inputs=torch.as_tensor(part / 16.0, dtype=torch.float32)[..., None],  # (B, T, 1)
                targets=torch.as_tensor(part_labels),
            )
            for part, part_labels in (
                (train, train_labels),
                (validation, validation_labels),
                (test, test_labels),
            )
        )
