"""A small problem in the .ts format: series of two channels, three classes and different lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HEADER = """# Waves
#
@problemName {name}
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true low middle high
@data
"""
CLASSES = ["low", "middle", "high"]
COUNTS = {"TRAIN": 30, "TEST": 15}


def small_series(part: str) -> list[tuple[np.ndarray, str]]:
    """Return series (T, 2) with their labels: a wave whose frequency is that of the label, and noise."""
    random = np.random.RandomState(COUNTS[part])
    series = []
    for number in range(COUNTS[part]):
        label = number % 3
        steps = np.arange(random.randint(5, 12))
        wave = 5 + np.sin((0.3 + 0.8 * label) * steps + random.rand())
        series.append((np.stack([wave, 100 * random.randn(len(steps))], axis=1).round(6), CLASSES[label]))
    return series


def ts_line(array: np.ndarray, label: str) -> str:
    """Return a series as a line of the file; NaN is a missing value."""
    channels = (",".join("?" if np.isnan(value) else str(value) for value in channel) for channel in array.T)
    return ":".join([*channels, label]) + "\n"


def write_small_series(folder: Path, name: str = "JapaneseVowels") -> None:
    """Write the two files of the problem."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in COUNTS:
        lines = "".join(ts_line(array, label) for array, label in small_series(part))
        (folder / f"{name}_{part}.ts").write_text(HEADER.format(name=name) + lines)
