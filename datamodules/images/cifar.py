"""CIFAR-10 as sequences of pixels.

Shapes: B examples, T 1,024 pixels, C color channels, S side of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.base import Batch, DataError, DataModule
from datamodules.labels import frequency_losses, majority_accuracy

SIDE = 32
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R 601, as torchvision's Grayscale


class PixelsDataset(Dataset[Batch]):
    """Images as bytes in memory, a quarter of the memory of floats. A batch is scaled to [0, 1] when it is read.

    Args:
        pixels_BTC: Colors or gray levels from 0 to 255.
        targets: Class (B,) of each image.
    """

    def __init__(self, pixels_BTC: Tensor, targets: Tensor) -> None:
        self.pixels_BTC, self.targets = pixels_BTC, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch. DataLoader calls this method where it exists."""
        rows = torch.as_tensor(indices)
        return {"inputs": self.pixels_BTC[rows] / 255, "targets": self.targets[rows]}


class CIFAR10(DataModule):
    """60,000 color images of ten kinds of things (32 x 32) as sequences of 1,024 pixels, row by row.

    The folder ``cifar-10-batches-py`` with the Python version of the data set is searched in the root folder. If it is
    missing or its checksums differ, torchvision downloads it. Pixels are scaled to [0, 1]. 5,000 of the 50,000 training
    images, always the same, are the validation set.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009; as a sequence Chang et al.,
    "AntisymmetricRNN", ICLR 2019.

    Args:
        root: Folder of the data; None: the environment variable DATA_DIR, else ``data``. Nothing is written elsewhere.
        batch_size: Images in a batch of each process.
        gray: Whether a step is one gray level instead of red, green and blue.
        train_size: Number of training images, the first of a fixed random order; None: all of them.

    Raises:
        ValueError: ``train_size`` or ``batch_size`` is below 1.
        DataError: During preparation and setup: a file is missing and cannot be downloaded, or is damaged, or there are
            fewer training images than ``train_size``.
    """

    num_classes = 10
    provided_sizes = ("input_size", "num_classes")
    validation_size: ClassVar[int] = 5_000
    train: PixelsDataset
    validation: PixelsDataset
    test: PixelsDataset

    def __init__(
        self, root: str | None = None, batch_size: int = 100, gray: bool = False, train_size: int | None = None
    ) -> None:
        super().__init__(root, batch_size)
        if train_size is not None and train_size < 1:
            raise ValueError(f"train_size must be an integer of at least 1, got {train_size}")
        self.gray = gray
        self.train_size = train_size

    @property
    def input_size(self) -> int:
        """Number of color channels."""
        return 1 if self.gray else 3

    @property
    def description(self) -> dict[str, Any]:
        return {
            "order": "row by row",
            "features_of_a_step": "gray level" if self.gray else "red, green, blue",
            "scaling": "level / 255",
            "split": {part: len(getattr(self, part)) for part in ("train", "validation", "test")},
            "majority_accuracy": majority_accuracy(self.train.targets, self._evaluated_labels()),
        }

    def baselines(self) -> dict[str, float]:
        return frequency_losses(self.train.targets, self._evaluated_labels(), self.num_classes)

    def images(self, inputs: Tensor) -> Tensor:
        return inputs.mean(-1).view(-1, SIDE, SIDE)

    def prepare_data(self) -> None:
        """Download the data set if it is missing. Lightning calls it in one process of each machine."""
        self._read(train=False, download=True)

    def setup(self, stage: str | None = None) -> None:
        training, self.test = self._read(train=True), self._read(train=False)
        # numpy guarantees the same draws in every version for RandomState only
        shuffled = torch.as_tensor(np.random.RandomState(0).permutation(len(training)))
        rest = shuffled[self.validation_size :]
        if self.train_size is not None and self.train_size > len(rest):
            raise DataError(f"train_size must be at most {len(rest):,}, got {self.train_size}")
        self.train, self.validation = (
            PixelsDataset(training.pixels_BTC[rows], training.targets[rows])
            for rows in (rest[: self.train_size], shuffled[: self.validation_size])
        )

    def _evaluated_labels(self) -> dict[str, Tensor]:
        return {"validation": self.validation.targets, "test": self.test.targets}

    def _reading(self) -> dict[str, Any]:
        return super()._reading() | {"train_size": self.train_size}

    def _read(self, train: bool, download: bool = False) -> PixelsDataset:
        import torchvision.datasets

        source = torchvision.datasets.CIFAR10
        try:
            found = source(self.root, train=train, download=download)
        except (OSError, RuntimeError) as error:  # RuntimeError: a wrong checksum
            raise DataError(
                f"CIFAR-10 cannot be read from {self.root / source.base_folder} ({error}). Put the folder there, from "
                f"{source.url}, or set another folder with --data.root."
            ) from error
        images_BSSC = torch.as_tensor(found.data)
        if self.gray:
            images_BSSC = (images_BSSC.float() @ torch.tensor(LUMINANCE))[..., None].round().byte()
        return PixelsDataset(images_BSSC.flatten(1, 2).contiguous(), torch.as_tensor(found.targets))
