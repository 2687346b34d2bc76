"""Tests of CIFAR-10 on small pickled batches: order of pixels, gray levels, split, errors."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_cifar import SOURCE, small_images, write_small_cifar

from datamodules import CIFAR10, DataError


@pytest.fixture
def _files(monkeypatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    write_small_cifar(Path("data"), monkeypatch)


def ready(**options) -> CIFAR10:
    data = CIFAR10(**options)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.usefixtures("_files")
def test_step_is_a_pixel_row_by_row():
    images, labels = small_images("test_batch")
    batch = ready().test.__getitems__([3, 1])
    assert batch["inputs"].shape == (2, 1024, 3)
    assert batch["targets"].tolist() == [labels[3], labels[1]]
    for row, column, channel in [(0, 0, 0), (0, 31, 2), (5, 7, 1)]:
        expected = images[3, channel, row, column] / 255
        assert batch["inputs"][0, 32 * row + column, channel].item() == pytest.approx(expected)
    assert torch.equal(ready().test[1]["inputs"], batch["inputs"][1])


@pytest.mark.usefixtures("_files")
def test_gray_level_is_the_luminance():
    images, _ = small_images("test_batch")
    data = ready(gray=True)
    assert data.input_size == 1
    red, green, blue = images.astype(float).transpose(1, 0, 2, 3)
    expected = np.round(0.299 * red + 0.587 * green + 0.114 * blue)
    found = data.test.__getitems__(range(20))["inputs"]
    assert found.shape == (20, 1024, 1)
    assert abs(found.view(20, 32, 32).double().numpy() * 255 - expected).max() <= 1 + 1e-4  # a tie of rounding
    torch.testing.assert_close(data.images(found), found.view(20, 32, 32))


@pytest.mark.usefixtures("_files")
def test_parts_are_disjoint_and_independent_of_the_seed(monkeypatch):
    data = ready()
    assert [len(part) for part in (data.train, data.validation, data.test)] == [40, 10, 20]
    original = np.concatenate([small_images(f"data_batch_{k}")[0] for k in (1, 2)]).transpose(0, 2, 3, 1)
    found = torch.cat([data.train.pixels_BTC, data.validation.pixels_BTC]).numpy()
    assert {image.tobytes() for image in found} == {image.tobytes() for image in original}
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    small = ready(train_size=7)
    assert torch.equal(small.validation.pixels_BTC, data.validation.pixels_BTC)
    assert torch.equal(small.train.pixels_BTC, data.train.pixels_BTC[:7])
    with pytest.raises(DataError, match="train_size must be at most 40, got 41"):
        ready(train_size=41)


@pytest.mark.usefixtures("_files")
def test_baselines_are_those_of_the_class_frequencies():
    data = ready()
    counts = np.bincount(data.train.targets, minlength=10)
    expected = np.mean([-log((counts[label] + 1) / 50) for label in data.test.targets])
    assert data.baselines()["class frequencies, test"] == pytest.approx(expected)
    assert data.description["majority_accuracy"]["test"] == pytest.approx(0.1)


@pytest.mark.usefixtures("_files")
def test_missing_or_damaged_file_is_reported_with_its_folder(monkeypatch):
    monkeypatch.setattr(SOURCE, "test_list", [["test_batch", "0" * 32]])
    with pytest.raises(DataError, match=r"CIFAR-10 cannot be read from data/cifar-10-batches-py .*not found or corr"):
        CIFAR10().setup()


def test_invalid_train_size_raises():
    with pytest.raises(ValueError, match="train_size must be an integer of at least 1, got 0"):
        CIFAR10(train_size=0)
