"""What all data modules share: the root folder, batches as dictionaries, loaders over data in memory."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Tensor]


class DataError(Exception):
    """Data that are missing, unreadable or wrong: one sentence with the file, what was expected, what to do."""


class TensorsDataset(Dataset[Batch]):
    """Examples held in memory as tensors of equal length; a batch is one indexing operation.

    Args:
        **tensors: Entries of the batch dictionary, examples first.
    """

    def __init__(self, **tensors: Tensor) -> None:
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the entries of a data set have different lengths: {lengths}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once: what DataLoader asks for where it exists."""
        rows = torch.as_tensor(indices)
        return {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}  # faster than tensor[rows]


class DataModule(LightningDataModule):
    """Real data made ready: ``train``, ``validation`` and ``test`` data sets after ``setup``.

    A batch is a dictionary that says what it is: ``inputs`` (B, T, input_size), ``targets``, and ``lengths`` where
    sequences are padded, ``reset`` where they are pieces of a stream, or ``scored`` (B, T) where the accuracy is that
    of some steps only.

    Args:
        root: Folder of the data; None means the environment variable DATA_DIR, else ``data``. Nothing is written
            outside it.
        batch_size: Sequences in a batch (of each process).

    Attributes:
        chosen_on_test: Whether there is no validation split, and the test data stand in its place, so that the best
            epoch is chosen on them.
        solved_below: The loss below which the task counts as solved; None where there is no such margin.

    Raises:
        ValueError: if ``batch_size`` is below 1.
    """

    chosen_on_test: bool = False
    solved_below: float | None = None
    train: Dataset[Batch]
    validation: Dataset[Batch]
    test: Dataset[Batch]

    def __init__(self, root: str | None = None, batch_size: int = 128) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; an integer of at least 1 is expected")
        self.root = Path(root or os.environ.get("DATA_DIR") or "data")
        self.batch_size = batch_size

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Number of features of one time step."""

    @property
    def description(self) -> dict[str, Any]:
        """How the data were made ready (order, split, scaling) as plain data, for the record of a run."""
        return {}

    def baselines(self) -> dict[str, float]:
        """Losses that trivial answers reach on these data, by the name of the answer, to compare a trained cell with.

        They are in the unit of the task's ``loss``, and may be measured: the data are made ready before.
        """
        return {}

    def images(self, inputs: Tensor) -> Tensor | None:
        """``inputs`` as images (B, height, width) in [0, 1], where that is what they are, to be shown."""
        return None

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def _loader(self, dataset: Dataset[Batch], shuffle: bool = False) -> DataLoader[Batch]:
        return DataLoader(dataset, batch_size=self.batch_size, shuffle=shuffle, collate_fn=whole_batch)


def whole_batch(batch: Any) -> Any:
    return batch  # TensorsDataset.__getitems__ has made it already
