"""From the TIMIT disc to files of features: ``python -m app prepare timit``, and the data module at its first use."""

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
WHOLE = "timit.json"  # is there when all files are, and names them
AHEAD = 8  # recordings that a process may be ahead of the writing


def prepare_timit(root: Path, out: Path, dtype: str = "float32", processes: int | None = None) -> list[FeatureFile]:
    """Write the features and the sounds at 8 kHz of a TIMIT disc, a file for each group of speakers that is there.

    A call that was killed, or ran out of room, is gone on with by the next; files that are whole are left as they are.

    Args:
        root: Folder of the disc; it is only read.
        out: Folder of the files, which is made.
        dtype: Type of the numbers: float32, or float16 with half the room and an error of up to 0.02 dB.
        processes: How many prepare at once; None means one for each processor.

    Returns:
        The files.

    Raises:
        DataError: if there is no disc, a recording cannot be used, or the files cannot be written.
        ValueError: if an argument lies outside what is accepted.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; one of {', '.join(DTYPES)} is expected")
    if processes is not None and processes < 1:
        raise ValueError(f"processes is {processes}; an integer of at least 1 is expected")
    recordings = find_recordings(root)
    groups: list[str] = []
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(out / ".lock"),  # another process that prepares here is waited for
            tqdm(total=len(recordings), desc=f"TIMIT to {out}", unit="utterance", disable=None) as bar,
        ):
            for group, members in groupby(recordings, key=lambda recording: recording.group):
                maker = _Maker(list(members), processes or os.cpu_count() or 1, bar)
                names = [(recording.speaker, recording.sentence) for recording in maker.recordings]
                write_features(out, group, SETTINGS, dtype, names, maker)
                groups.append(group)
            write_json(out / WHOLE, groups)
    return open_timit(out)


def is_prepared(out: Path) -> bool:
    """Whether a preparation has come to its end in ``out``."""
    return (out / WHOLE).exists()


def open_timit(out: Path) -> list[FeatureFile]:
    """The files that :func:`prepare_timit` wrote, one for each group of speakers that was on the disc.

    Raises:
        DataError: if they are missing, damaged, or of another version of the program.
    """
    try:
        groups = json.loads((out / WHOLE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{out / WHOLE} cannot be read ({error}); prepare the data again") from error
    return [FeatureFile(out, group, SETTINGS) for group in groups]


class _Maker:
    """Features and sounds of recordings, made by several processes, in the order of the recordings."""

    def __init__(self, recordings: Sequence[Recording], processes: int, bar: tqdm[Any]) -> None:
        self.recordings = recordings
        self.processes = processes
        self.bar = bar

    def __call__(self, first: int) -> Iterator[Arrays]:
        rest = self.recordings[first:]
        self.bar.update(first)
        processes = self.processes if len(rest) > AHEAD * self.processes else 0  # a few are faster made here
        # a DataLoader keeps the order, makes a bounded number ahead, and its processes end with this one
        loader = DataLoader(
            _Recordings(rest),
            batch_size=None,
            num_workers=processes,
            prefetch_factor=AHEAD if processes else None,
            collate_fn=_as_it_is,
        )
        for made in loader:
            if isinstance(made, str):
                raise DataError(made)
            yield made
            self.bar.update()


class _Recordings(Dataset[Arrays | str]):
    """Features and sound of each recording, as numpy arrays; or the sentence that says what is wrong with it."""

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


def _as_it_is(made: Any) -> Any:
    return made  # numpy arrays go through a pipe; tensors would need shared memory, of which containers have little
