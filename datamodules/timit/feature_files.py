"""Features and sounds of utterances in one memory-mapped file, with an index that says what lies where.

NAME.float32 (or .float16)   for each utterance its features (T, F), then its sound (N,), one after the other
NAME.json                    the index: settings, type of the numbers, and of each utterance speaker, sentence, T, N
                             and the CRC-32 of its numbers
.NAME.part, .NAME.journal    the same while they are being written; a later call goes on from there

Shapes: T frames, F features, N samples.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.base import DataError
from datamodules.files import replacing

DTYPES = ("float32", "float16")


class Utterance(NamedTuple):
    """What the index says of an utterance."""

    speaker: str
    sentence: str
    frames: int
    samples: int
    crc32: int


Arrays = tuple[np.ndarray, np.ndarray]  # features (T, F) and sound (N,)


class FeatureFile:
    """The utterances of one file, read where they lie.

    Args:
        folder: Where the file and its index are.
        name: Their name, without the endings.
        settings: What the features must have been made with.

    Attributes:
        name: The name.
        utterances: What the index says of each.

    Raises:
        DataError: if the file or its index is missing, not whole, or of other settings.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        index = folder / f"{name}.json"
        try:
            held = json.loads(index.read_text(encoding="utf-8"))
            self.utterances = [Utterance(*fields) for fields in held["utterances"]]
            dtype, self.features = np.dtype(held["dtype"]), int(held["settings"]["features"])
        except OSError as error:
            raise DataError(f"{index} cannot be read: {error.strerror}; prepare the data") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{index} is damaged; remove {folder}, and prepare the data anew") from error
        if held["settings"] != dict(settings):
            raise DataError(
                f"{index} was made with {held['settings']}, but {dict(settings)} is expected; remove {folder}, and "
                "prepare the data anew"
            )
        self.path = folder / f"{name}.{dtype}"
        self.ends = np.cumsum([self._numbers(utterance) for utterance in self.utterances])
        try:
            self.numbers = np.memmap(self.path, dtype, mode="r").view(np.ndarray)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DataError(
                f"{self.path} cannot be read: {error}; remove {folder}, and prepare the data anew"
            ) from error
        self._verify()

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, number: int) -> Arrays:
        """Features (T, F) and sound (N,) of an utterance, as views of the file."""
        utterance, held = self.utterances[number], self._held(number)
        split = utterance.frames * self.features
        return held[:split].reshape(utterance.frames, self.features), held[split:]

    def _numbers(self, utterance: Utterance) -> int:
        return utterance.frames * self.features + utterance.samples

    def _held(self, number: int) -> np.ndarray:
        end = int(self.ends[number])
        return self.numbers[end - self._numbers(self.utterances[number]) : end]

    def _verify(self) -> None:
        """Compare size and checksums with the index."""
        remedy = f"remove {self.path.parent}, and prepare the data anew"
        if len(self.numbers) != self.ends[-1]:
            raise DataError(f"{self.path} holds {len(self.numbers)} numbers of {self.ends[-1]}; {remedy}")
        for number, utterance in enumerate(self.utterances):
            if zlib.crc32(self._held(number).data) != utterance.crc32:
                raise DataError(
                    f"{self.path} is damaged at {utterance.speaker} {utterance.sentence}: another checksum; {remedy}"
                )


def write_features(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    dtype: str,
    utterances: Sequence[tuple[str, str]],
    make: Callable[[int], Iterable[Arrays]],
) -> None:
    """Write a file of features and its index, or go on with one that was begun; nothing to do where it is there.

    The index appears when the file is whole and on the disc, so what has an index is complete.

    Args:
        folder: Folder of the files; it must be there.
        name: Name of the files, without endings.
        settings: What the features are made with; ``features`` is F.
        dtype: Type of the numbers, one of DTYPES.
        utterances: (speaker, sentence) of each.
        make: Called with the number of the first utterance that is missing, for features and sounds from there on.

    Raises:
        DataError: if the files cannot be written, or are there with other settings or utterances.
    """
    index, part, journal = (folder / file for file in (f"{name}.json", f".{name}.part", f".{name}.journal"))
    heading = {"settings": dict(settings), "dtype": dtype, "names": [list(pair) for pair in utterances]}
    with writing_to(folder):
        if index.exists():
            _check_same(index, heading)
            return
        done = _begun(journal, part, heading)
        if not done:
            part.unlink(missing_ok=True)
            journal.write_text(json.dumps(heading) + "\n", encoding="utf-8")
        with part.open("ab") as data, journal.open("a", encoding="utf-8") as log:
            for (speaker, sentence), (features, sound) in zip(utterances[len(done) :], make(len(done)), strict=True):
                held = b"".join(np.ascontiguousarray(array, dtype).tobytes() for array in (features, sound))
                done.append(Utterance(speaker, sentence, len(features), len(sound), zlib.crc32(held)))
                data.write(held)
                data.flush()  # before the journal says that it is there
                log.write(json.dumps(done[-1]) + "\n")
                log.flush()
            os.fsync(data.fileno())
        part.replace(folder / f"{name}.{dtype}")
        write_json(index, {"settings": dict(settings), "dtype": dtype, "utterances": done})
        journal.unlink()


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` so that ``path`` is at any time missing, the old file or the new one, never a half of it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say in a sentence why files could not be written into ``folder``.

    Raises:
        DataError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{folder} is full ({error.strerror}); make room, and the same command goes on where it stopped, or "
                "name another folder"
            ) from error
        raise DataError(f"{folder} cannot be written: {error.strerror}; name another folder") from error


def _check_same(index: Path, heading: Mapping[str, Any]) -> None:
    held = FeatureFile(index.parent, index.stem, heading["settings"])
    found = {"dtype": str(held.numbers.dtype), "names": [[said.speaker, said.sentence] for said in held.utterances]}
    for what in found:
        if found[what] != heading[what]:
            raise DataError(
                f"{index.parent} was prepared from other recordings or with another type of numbers (here {what}); "
                "name another folder, or remove this one"
            )


def _begun(journal: Path, part: Path, heading: Mapping[str, Any]) -> list[Utterance]:
    """The utterances that are whole in a file that was begun; what comes after them is cut off."""
    done: list[Utterance] = []
    size = np.dtype(heading["dtype"]).itemsize
    try:
        with part.open("r+b") as data, journal.open("r+b") as log:
            if json.loads(log.readline()) != heading:
                return []
            data_end, log_end = 0, log.tell()
            while utterance := _utterance(log.readline()):
                held = data.read((utterance.frames * heading["settings"]["features"] + utterance.samples) * size)
                if zlib.crc32(held) != utterance.crc32:
                    break
                done.append(utterance)
                data_end, log_end = data.tell(), log.tell()
            data.truncate(data_end)
            log.truncate(log_end)
    except (FileNotFoundError, ValueError):  # not begun, or killed within the first line
        return []
    return done


def _utterance(line: bytes) -> Utterance | None:
    """A line of the journal; None for its end, which may be half a line."""
    try:
        return Utterance(*json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None
