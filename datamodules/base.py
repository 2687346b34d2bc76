"""What all data modules share: the root folder, batches as dictionaries, loaders, and the place in the data."""

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


def whole_batch(batch: Any) -> Any:
    return batch  # TensorsDataset.__getitems__ has made it already


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
        provided_sizes: Attributes that a task can take as its sizes, such as ``input_size`` and ``num_classes``. The
            command line passes those that the task requires.
        resumable_arguments: Arguments that ``fit --resume`` may change: the places of files.
        chosen_on_test: Whether there is no validation split, and the test data stand in its place, so that the best
            epoch is chosen on them.
        training_order: What puts the training examples into batches.
        solved_below: The loss below which the task counts as solved; None where there is no such margin.

    Raises:
        ValueError: if ``batch_size`` is below 1.
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
            raise ValueError(f"batch_size is {batch_size}; an integer of at least 1 is expected")
        self.root = Path(root or os.environ.get("DATA_DIR") or "data")
        self.batch_size = batch_size
        self.resumed_at = (0, 0)  # epoch, and batches of it that are done

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Number of features of one time step."""

    @property
    def description(self) -> dict[str, Any]:
        """How the data were made ready (order, split, scaling) as plain data, for the record of a run."""
        return {}

    def run_files(self) -> dict[str, str]:
        """Texts that belong into the run directory, by the name of the file; nothing by default."""
        return {}

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know, a sentence each: said by ``fit``, and kept with the results."""
        return []

    def names(self, numbers: Sequence[int]) -> Sequence[str | int]:
        """Names of test examples, for a table of predictions: by default their numbers in the data set."""
        return numbers

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

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: how far the training has come in them."""
        if self.trainer is None:
            return {}
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if epochs.started == epochs.processed:  # at the end of an epoch, which Lightning has counted but not left yet
            batches = 0
        return {"epoch": epochs.processed, "batches": batches, **self._reading()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let a training that is resumed go on where the checkpoint was written.

        Raises:
            DataError: if this training would cut the data into other batches.
        """
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        different = [
            f"{name} is {value}, in the checkpoint {state_dict.get(name)}"
            for name, value in self._reading().items()
            if state_dict.get(name) != value
        ]
        if different:
            raise DataError(f"the place in the data cannot be found again: {'; '.join(different)}")
        self.resumed_at = state_dict["epoch"], state_dict["batches"]

    def _reading(self) -> dict[str, Any]:
        """What decides which batches there are and who reads them."""
        return {"batch_size": self.batch_size, "processes": self._processes()[1], "seed": run_seed() or 0}

    def _processes(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(
        self,
        dataset: Dataset[Batch],
        *,
        shuffle: bool = False,
        lengths: Sequence[int] | None = None,
        collate: Callable[[Any], Batch] = whole_batch,
    ) -> DataLoader[Batch]:
        """A loader of this process's batches; the training's (shuffled) goes on where a checkpoint was written.

        Args:
            dataset: The examples.
            shuffle: Whether it is the training's.
            lengths: Of the examples, where batches are to be of similar length.
            collate: Makes a batch of what the data set gives for its indices.

        Raises:
            DataError: if there are fewer examples than processes.
        """
        rank, world_size = self._processes()
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]  # untyped
            shuffle = False
        try:
            batches = (self.training_order if shuffle else Batches)(
                len(dataset),  # type: ignore[arg-type]  # every data set here has a length
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
        # a generator of its own: a loader draws a number each time it is read, which is not to change dropout
        return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


def run_seed() -> int | None:
    """The seed that Lightning's ``seed_everything`` was given, which also child processes know."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)
