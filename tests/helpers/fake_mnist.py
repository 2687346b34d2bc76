"""A small MNIST: idx files with distinguishable images, written by a fixed rule."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

SIZES = {"train": 240, "t10k": 40}
VALIDATION_SIZE = 40


def small_images(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels): a bar at the position of the label, over noise; all images differ."""
    rng = np.random.RandomState(SIZES[part])
    labels = np.arange(SIZES[part], dtype=np.uint8) % 10
    images = rng.randint(0, 60, (SIZES[part], 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6] = 250
    return images, labels


def idx_bytes(array: np.ndarray) -> bytes:
    """Return an array of bytes in the idx format: magic number, sizes (big endian), data."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_small_mnist(folder: Path, packed: bool = True) -> None:
    """Write the four files of the data set, gzipped or plain."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in SIZES:
        images, labels = small_images(part)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            (folder / f"{name}.gz").write_bytes(gzip.compress(data)) if packed else (folder / name).write_bytes(data)
