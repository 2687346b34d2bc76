"""Base class of the data modules: root folder, batches as dictionaries, loaders, position in the training data."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import Batches

Batch = dict[str, Tensor]
IGNORED = -100  # target that does not count: the ignore_index of torch's cross_entropy


class DataError(Exception):
    """Data are missing, unreadable or wrong. The message names the file, what was expected, and what to do."""


class TensorsDataset(Dataset[Batch]):
    """Examples in memory, as tensors with the same number of rows. A batch is one indexing operation for each.

    Args:
        **tensors: Entries of the batch dictionary; the first dimension counts the examples.
    """

    def __init__(self, **tensors: Tensor) -> None:
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all entries of a data set must have the same length, got {lengths}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch. DataLoader calls this method where it exists."""
        rows = torch.as_tensor(indices)
        return {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}  # faster than tensor[rows]


def whole_batch(batch: Any) -> Any:
    """Return the batch that ``__getitems__`` of the data set has made."""
    return batch


class DataModule(LightningDataModule):
    """Data module with the data sets ``train``, ``validation`` and ``test`` after ``setup``.

    A batch is a dictionary with ``inputs`` (B, T, input_size) and ``targets``. It also has ``lengths`` (B,) if
    sequences are padded, ``reset`` (B,) if they are windows of a stream, or ``scored`` (B, T) if the accuracy counts
    some steps only. Targets that are ``IGNORED`` count neither in the loss nor in the accuracy.

    Args:
        root: Folder of the data; None: the environment variable DATA_DIR, else ``data``. Nothing is written elsewhere.
        batch_size: Sequences in a batch of each process.

    Attributes:
        provided_sizes: Attributes that a task can take as its sizes, such as ``input_size`` and ``num_classes``. The
            command line passes those that the task requires.
        resumable_arguments: Arguments that ``fit --resume`` may change: the places of files.
        chosen_on_test: Whether the test set is also the validation set, so that the best epoch is chosen on it.
        training_order: Class that divides the training examples into batches.
        solved_below: Loss below which the task counts as solved; None: there is no such loss.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """

    provided_sizes: ClassVar[tuple[str, ...]] = ("input_size",)
    resumable_arguments: ClassVar[tuple[str, ...]] = ("root",)
    chosen_on_test: bool = False
    training_order: ClassVar[type[Batches]] = Batches
    solved_below: float | None = None
    train: Dataset[Batch]
    validation: Dataset[Batch]
    test: Dataset[Batch]

    def __init__(self, root: str | None = None, batch_size: int = 128) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size}")
        self.root = Path(root or os.environ.get("DATA_DIR") or "data")
        self.batch_size = batch_size
        self.resumed_at = (0, 0)  # epoch, and finished batches of it

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Number of features of one time step."""

    @property
    def description(self) -> dict[str, Any]:
        """Preparation of the data (order, split, scaling) as plain values, recorded with each run."""
        return {}

    def run_files(self) -> dict[str, str]:
        """Return texts to write into the run directory, by file name; none by default."""
        return {}

    @property
    def notes(self) -> list[str]:
        """Remarks needed to interpret the results. ``fit`` prints them and writes them into results.json."""
        return []

    def names(self, numbers: Sequence[int]) -> Sequence[str | int]:
        """Return names of test examples for the table of predictions; by default their numbers in the data set."""
        return numbers

    def baselines(self) -> dict[str, float]:
        """Return the losses of trivial predictors, by name, in the unit of the task's ``loss``.

        It is called after ``setup`` and may read the data.
        """
        return {}

    def images(self, inputs: Tensor) -> Tensor | None:
        """Return ``inputs`` as images (B, height, width) in [0, 1]; None: they are no images."""
        return None

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training data, for a checkpoint."""
        if self.trainer is None:
            return {}
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if epochs.started == epochs.processed:  # the epoch has ended, but Lightning has not reset its counter yet
            batches = 0
        return {"epoch": epochs.processed, "batches": batches, **self._reading()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the position in the training data from a checkpoint, if a training is resumed.

        Raises:
            DataError: This training would divide the data into different batches.
        """
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        different = [
            f"{name} must be {state_dict.get(name)}, got {value}"
            for name, value in self._reading().items()
            if state_dict.get(name) != value
        ]
        if different:
            raise DataError(f"the batches differ from those of the checkpoint: {'; '.join(different)}")
        self.resumed_at = state_dict["epoch"], state_dict["batches"]

    def _reading(self) -> dict[str, Any]:
        """Return the settings that determine the batches of each process."""
        return {"batch_size": self.batch_size, "processes": self._processes()[1], "seed": run_seed() or 0}

    def _processes(self) -> tuple[int, int]:
        """Return rank and world size."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(
        self,
        dataset: Dataset[Batch],
        *,
        shuffle: bool = False,
        lengths: Sequence[int] | None = None,
        collate: Callable[[Any], Batch] = whole_batch,
    ) -> DataLoader[Batch]:
        """Return a loader of the batches of this process.

        Args:
            dataset: Examples.
            shuffle: Whether it is the training loader, which starts at the position of the resumed checkpoint.
            lengths: Lengths of the examples, to batch similar lengths together; None: ignore lengths.
            collate: Function that makes a batch of what the data set returns.

        Raises:
            DataError: There are fewer examples than processes.
        """
        rank, world_size = self._processes()
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]  # untyped
            shuffle = False
        try:
            batches = (self.training_order if shuffle else Batches)(
                len(dataset),  # type: ignore[arg-type]  # all data sets here have a length
                self.batch_size,
                shuffle=shuffle,
                seed=run_seed() or 0,
                rank=rank,
                world_size=world_size,
                lengths=lengths,
            )
        except ValueError as error:
            raise DataError(str(error)) from error
        if shuffle:
            batches.epoch, batches.start = self.resumed_at
            self.resumed_at = (0, 0)
        # a separate generator: each pass of a loader draws a number, which must not change dropout
        return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


def run_seed() -> int | None:
    """Return the seed of Lightning's ``seed_everything``; child processes inherit it. None: it was not called."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)
