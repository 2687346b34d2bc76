"""Tests of the batch sampler: order by seed and epoch, sharing among processes, resuming within an epoch."""

from __future__ import annotations

from functools import partial
from itertools import chain, product

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import Adam

from app.callbacks.random_states import RandomStates
from app.tasks import SequenceClassifier
from cells import RNN
from datamodules import DataError, Digits
from datamodules.batches import Batches


def shares(size: int, batch_size: int, world_size: int, **options) -> list[list[list[int]]]:
    """Return the batches of each process."""
    return [list(Batches(size, batch_size, rank=rank, world_size=world_size, **options)) for rank in range(world_size)]


def flat(batches) -> list[int]:
    return list(chain.from_iterable(batches))


def test_order_depends_on_seed_and_epoch_only():
    def order(seed: int, epoch: int) -> list[int]:
        batches = Batches(50, 7, shuffle=True, seed=seed)
        batches.set_epoch(epoch)
        return flat(batches)

    orders = {(seed, epoch): order(seed, epoch) for seed, epoch in product(range(3), range(3))}
    torch.manual_seed(99)
    np.random.seed(99)
    assert order(1, 2) == orders[1, 2]
    assert len({tuple(found) for found in orders.values()}) == 9
    assert all(sorted(found) == list(range(50)) for found in orders.values())
    assert orders[1, 2] == np.random.RandomState([1, 2]).permutation(50).tolist()


@pytest.mark.parametrize("lengths", [None, [1 + 7 * index % 31 for index in range(50)]], ids=["", "by length"])
@pytest.mark.parametrize("start", [0, 1, 5, 8])
def test_epoch_resumes_at_any_batch(start, lengths):
    batches = Batches(50, 7, shuffle=True, lengths=lengths)
    batches.set_epoch(3)
    whole = list(batches)
    batches.start = start
    assert list(batches) == whole[start:]
    assert len(batches) == len(whole) == 8
    batches.set_epoch(3)
    assert list(batches) == whole[start:]
    batches.set_epoch(4)
    assert len(list(batches)) == 8


@pytest.mark.parametrize("lengths", [None, [1 + 7 * index % 31 for index in range(100)]], ids=["", "by length"])
@pytest.mark.parametrize(("size", "batch_size", "world_size"), list(product([3, 29, 30, 31, 48], [1, 4, 7], [1, 2, 3])))
def test_processes_read_the_batches_of_one_process_with_larger_batches(size, batch_size, world_size, lengths):
    lengths = lengths and lengths[:size]
    alone = list(Batches(size, batch_size * world_size, shuffle=True, lengths=lengths))
    parts = shares(size, batch_size, world_size, shuffle=True, lengths=lengths)
    assert {len(batches) for batches in parts} == {len(Batches(size, batch_size, shuffle=True, world_size=world_size))}
    left_out = 0
    together = iter(zip(*parts, strict=True))
    for batch in alone:
        used = len(batch) - len(batch) % world_size
        left_out += len(batch) - used
        if used:
            pieces = next(together)
            assert {len(piece) for piece in pieces} == {used // world_size}
            assert sorted(flat(pieces)) == sorted(batch[:used])
    assert not list(together)
    assert left_out == size % world_size


@pytest.mark.parametrize(("size", "batch_size", "world_size"), list(product([3, 29, 30, 31], [1, 4, 7], [1, 2, 3])))
def test_evaluation_reads_each_example_once(size, batch_size, world_size):
    parts = shares(size, batch_size, world_size, shuffle=False)
    for rank, batches in enumerate(parts):
        assert all(0 < len(batch) <= batch_size for batch in batches)
        assert len(batches) == len(Batches(size, batch_size, shuffle=False, rank=rank, world_size=world_size))
    assert flat(flat(parts)) == list(range(size))  # contiguous parts in order


def test_batches_of_similar_length_have_little_padding():
    lengths = np.random.RandomState(0).randint(100, 800, 4000).tolist()

    def padding(batches) -> float:
        rows = [[lengths[index] for index in batch] for batch in batches]
        return sum(len(row) * max(row) for row in rows) / sum(lengths) - 1

    assert padding(Batches(4000, 16, shuffle=True)) > 0.5
    for world_size in (1, 2):
        parts = shares(4000, 16, world_size, shuffle=True, lengths=lengths)
        assert padding(flat(parts)) < 0.04
        firsts = [lengths[batch[0]] for batch in parts[0]]
        assert firsts != sorted(firsts)


def test_inconsistent_sizes_raise():
    with pytest.raises(ValueError, match="number of examples must be at least that of processes, 3, got 2"):
        Batches(2, 1, shuffle=False, world_size=3)
    with pytest.raises(ValueError, match="lengths must have one entry for each of the 2 examples, got 1"):
        Batches(2, 1, shuffle=True, lengths=[3])


def test_overfitting_repeats_the_same_batches():
    data, read = Digits(batch_size=5), []
    trainer = quiet_trainer(Record(read), max_epochs=2, overfit_batches=2)
    trainer.fit(Noisy(RNN, input_size=1, num_classes=10, hidden_size=2), data)
    targets = [targets for _, _, targets, _ in read]
    assert targets[:2] == targets[2:]
    assert len(targets) == 4


class Noisy(SequenceClassifier):
    """Classifier whose loss depends on random numbers."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx) * torch.rand(())
        return loss * np.random.rand()


class Record(Callback):
    """Record the targets and the loss of each training batch."""

    def __init__(self, read: list) -> None:
        self.read = read

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.read.append((trainer.current_epoch, batch_idx, batch["targets"].tolist(), outputs["loss"].item()))


def quiet_trainer(*callbacks: Callback, **options) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**quiet, callbacks=list(callbacks), **options)


@pytest.mark.parametrize(
    "saved", [{"every_n_train_steps": 1}, {"every_n_epochs": 1, "save_on_train_epoch_end": True}], ids=["step", "epoch"]
)
def test_resumed_training_is_identical_to_an_uninterrupted_one(saved, tmp_path):
    """Resume three epochs of five batches within each epoch and at its end; the last batch is incomplete."""

    def fit(max_epochs: int, checkpoint=None) -> list:
        read: list = []
        torch.manual_seed(0 if checkpoint is None else 5)
        np.random.seed(0 if checkpoint is None else 5)
        task = Noisy(RNN, input_size=1, num_classes=10, hidden_size=2, optimizer=partial(Adam, lr=0.1))
        keep = ModelCheckpoint(tmp_path / f"{max_epochs}", "{epoch}-{step}", save_top_k=-1, **saved)
        trainer = quiet_trainer(RandomStates(), Record(read), keep, max_epochs=max_epochs)
        trainer.fit(task, Digits(batch_size=300), ckpt_path=checkpoint, weights_only=True)
        return read

    uninterrupted = fit(3)
    assert [len(targets) for _, _, targets, _ in uninterrupted[:5]] == [300, 300, 300, 300, 57]
    for path in (tmp_path / "3").iterdir():
        done = int(path.stem.partition("step=")[2])
        if done in (1, 4, 7, 13) or "every_n_epochs" in saved:
            assert fit(4, path)[: 15 - done] == uninterrupted[done:], path.name


def test_resuming_with_another_batch_size_raises(tmp_path):
    task = Noisy(RNN, input_size=1, num_classes=10, hidden_size=2)
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(task, Digits(batch_size=300))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    with pytest.raises(DataError, match="differ from those of the checkpoint: batch_size must be 300, got 200"):
        quiet_trainer().fit(task, Digits(batch_size=200), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    quiet_trainer().validate(task, Digits(batch_size=200), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
