"""Tests of the base class of the data modules and of the digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import Digits
from datamodules.base import TensorsDataset


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits(batch_size=100)
    data.prepare_data()
    data.setup()
    return data


def test_digits_are_split_without_overlap_and_stratified(digits):
    parts = [digits.train.tensors, digits.validation.tensors, digits.test.tensors]
    assert [len(part["targets"]) for part in parts] == [1257, 180, 360]
    for part in parts:
        counts = torch.bincount(part["targets"], minlength=10) / len(part["targets"])
        assert (counts - 0.1).abs().max() < 0.015
    images, labels = load_digits(return_X_y=True)
    found = torch.cat([torch.cat([part["inputs"][:, :, 0] * 16, part["targets"][:, None]], 1) for part in parts])
    expected = np.concatenate([images, labels[:, None]], 1)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


def test_digits_describe_their_preparation(digits):
    assert digits.description["split"] == {"train": 1257, "validation": 180, "test": 360}
    assert torch.equal(digits.images(digits.test.tensors["inputs"]).flatten(1), digits.test.tensors["inputs"][..., 0])


def test_digits_split_is_independent_of_the_seed(digits):
    torch.manual_seed(123)
    np.random.seed(123)
    again = Digits()
    again.setup()
    assert torch.equal(again.test.tensors["inputs"], digits.test.tensors["inputs"])


def test_batch_has_the_documented_entries(digits):
    batches = list(digits.train_dataloader())
    assert [len(batch["targets"]) for batch in batches] == [100] * 12 + [57]
    assert batches[0]["inputs"].shape == (100, 64, 1)
    assert batches[0]["inputs"].dtype == torch.float32
    assert batches[0]["targets"].dtype == torch.int64
    assert 0 <= batches[0]["inputs"].min() < batches[0]["inputs"].max() <= 1


def test_only_training_is_shuffled(digits):
    loader = digits.train_dataloader()
    first = torch.cat([batch["targets"] for batch in loader])
    loader.batch_sampler.set_epoch(1)
    second = torch.cat([batch["targets"] for batch in loader])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    found = torch.cat([batch["targets"] for batch in digits.test_dataloader()])
    assert torch.equal(found, digits.test.tensors["targets"])


def test_entries_of_unequal_length_raise():
    with pytest.raises(ValueError, match=r"must have the same length, got \{'inputs': 3, 'targets': 2\}"):
        TensorsDataset(inputs=torch.zeros(3), targets=torch.zeros(2))


def test_root_is_the_argument_the_environment_variable_or_data(monkeypatch):
    monkeypatch.setenv("DATA_DIR", "from_environment")
    assert Digits("given").root == Path("given")
    assert Digits().root == Path("from_environment")
    monkeypatch.delenv("DATA_DIR")
    assert Digits().root == Path("data")
