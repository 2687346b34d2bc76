"""A small CIFAR-10: pickled batches as of the Python version, written by a fixed rule."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from datamodules import CIFAR10

SOURCE = torchvision.datasets.CIFAR10
FILES = {"data_batch_1": 30, "data_batch_2": 20, "test_batch": 20}
VALIDATION_SIZE = 10


def small_images(name: str) -> tuple[np.ndarray, list[int]]:
    """Return images (B, 3, 32, 32) and labels of a file: noise, whose mean is that of the label."""
    random = np.random.RandomState(FILES[name] + len(name))
    labels = [number % 10 for number in range(FILES[name])]
    noise = random.randint(0, 60, (FILES[name], 3, 32, 32))
    return (noise + 15 * np.array(labels)[:, None, None, None]).astype(np.uint8), labels


def write_small_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files, and make torchvision accept them; their checksums are not those of the data set."""
    folder = root / SOURCE.base_folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        images, labels = small_images(name)
        (folder / name).write_bytes(pickle.dumps({"data": images.reshape(len(images), -1), "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"thing {label}" for label in range(10)]}))
    monkeypatch.setattr(SOURCE, "train_list", [["data_batch_1", None], ["data_batch_2", None]])
    monkeypatch.setattr(SOURCE, "test_list", [["test_batch", None]])
    monkeypatch.setattr(SOURCE, "meta", {**SOURCE.meta, "md5": None})
    monkeypatch.setattr(CIFAR10, "validation_size", VALIDATION_SIZE)
