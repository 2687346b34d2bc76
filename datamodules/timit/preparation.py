"""Preparation of TIMIT: from the recordings on a disc to files of features and sounds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.base import DataError
from datamodules.timit import spectra
from datamodules.timit.feature_files import DTYPES, Arrays, FeatureFile, write_features, write_json, writing_to
from datamodules.timit.recordings import Recording, find_recordings, read_sound

SETTINGS = {
    "features": spectra.BINS,
    "rate": spectra.RATE,
    "window": spectra.WINDOW,
    "hop": spectra.HOP,
    "floor": spectra.FLOOR,
    "filter_width": spectra.FILTER_WIDTH,
}
COMPLETE = "timit.json"  # lists all files; written after them
AHEAD = 8  # recordings that each process may prepare in advance


def prepare_timit(root: Path, out: Path, dtype: str = "float32", processes: int | None = None) -> list[FeatureFile]:
    """Write features and sounds at 8 kHz of a TIMIT disc, with one file for each group of speakers.

    An interrupted call is continued by the next one. Complete files are left unchanged.

    Args:
        root: Folder of the disc, which is only read.
        out: Folder of the files; it is created.
        dtype: Number type: float32, or float16 with half the size and an error of up to 0.02 dB.
        processes: Number of processes; None: one for each processor.

    Returns:
        The files.

    Raises:
        DataError: There is no disc, a recording cannot be used, or the files cannot be written.
        ValueError: An argument is outside its range.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be an integer of at least 1, got {processes}")
    recordings = find_recordings(root)
    groups: list[str] = []
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(out / ".lock"),  # waits for another process that prepares the same folder
            tqdm(total=len(recordings), desc=f"TIMIT to {out}", unit="utterance", disable=None) as bar,
        ):
            for group, members in groupby(recordings, key=lambda recording: recording.group):
                maker = _Maker(list(members), processes or os.cpu_count() or 1, bar)
                names = [(recording.speaker, recording.sentence) for recording in maker.recordings]
                write_features(out, group, SETTINGS, dtype, names, maker)
                groups.append(group)
            write_json(out / COMPLETE, groups)
    return open_timit(out)


def is_prepared(out: Path) -> bool:
    """Return whether ``out`` holds a complete preparation."""
    return (out / COMPLETE).exists()


def open_timit(out: Path) -> list[FeatureFile]:
    """Return the files that :func:`prepare_timit` wrote, one for each group of speakers.

    Raises:
        DataError: They are missing, damaged, or of another version of the program.
    """
    try:
        groups = json.loads((out / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{out / COMPLETE} cannot be read ({error}). Prepare the data again.") from error
    return [FeatureFile(out, group, SETTINGS) for group in groups]


class _Maker:
    """Features and sounds of recordings, computed by several processes, in the order of the recordings."""

    def __init__(self, recordings: Sequence[Recording], processes: int, bar: tqdm[Any]) -> None:
        self.recordings = recordings
        self.processes = processes
        self.bar = bar

    def __call__(self, first: int) -> Iterator[Arrays]:
        rest = self.recordings[first:]
        self.bar.update(first)
        processes = self.processes if len(rest) > AHEAD * self.processes else 0  # faster for few recordings
        # a DataLoader keeps the order, bounds the number in advance, and ends its processes with this one
        loader = DataLoader(
            _Recordings(rest),
            batch_size=None,
            num_workers=processes,
            prefetch_factor=AHEAD if processes else None,
            collate_fn=_unchanged,
        )
        for made in loader:
            if isinstance(made, str):
                raise DataError(made)
            yield made
            self.bar.update()


class _Recordings(Dataset[Arrays | str]):
    """Features and sound of each recording as numpy arrays, or an error message."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings = recordings

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, number: int) -> Arrays | str:
        try:
            sound = spectra.resample(read_sound(self.recordings[number].path))
        except DataError as error:
            return str(error)
        return spectra.features(sound).float().numpy(), sound.numpy()


def _unchanged(made: Any) -> Any:
    return made  # numpy arrays go through a pipe; tensors would need shared memory, which is scarce in containers
