"""Memory-mapped files of features and sounds of utterances, each with an index.

NAME.float32 (or .float16)   features (T, F), then sound (N,), of each utterance in turn
NAME.json                    index: settings, number type, and speaker, sentence, T, N and CRC-32 of each utterance
.NAME.part, .NAME.journal    data and index of an unfinished file; a later call continues it

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
    """Entry of the index for an utterance."""

    speaker: str
    sentence: str
    frames: int
    samples: int
    crc32: int


Arrays = tuple[np.ndarray, np.ndarray]  # features (T, F) and sound (N,)


class FeatureFile:
    """Utterances of one memory-mapped file.

    Args:
        folder: Folder of the file and its index.
        name: Name of both, without extension.
        settings: Settings with which the features must have been made.

    Attributes:
        name: Name of the file, without extension.
        utterances: Entries of the index.

    Raises:
        DataError: The file or its index is missing, damaged, or was made with other settings.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        index = folder / f"{name}.json"
        try:
            held = json.loads(index.read_text(encoding="utf-8"))
            self.utterances = [Utterance(*fields) for fields in held["utterances"]]
            dtype, self.features = np.dtype(held["dtype"]), int(held["settings"]["features"])
        except OSError as error:
            raise DataError(f"{index} cannot be read: {error.strerror}. Prepare the data.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{index} is damaged. {_again(folder)}") from error
        if held["settings"] != dict(settings):
            raise DataError(
                f"the settings of {index} must be {dict(settings)}, got {held['settings']}. {_again(folder)}"
            )
        if not self.utterances:
            raise DataError(f"{index} must list at least one utterance, got none. {_again(folder)}")
        self.path = folder / f"{name}.{dtype}"
        self.ends = np.cumsum([self._numbers(utterance) for utterance in self.utterances])
        try:
            self.numbers = np.memmap(self.path, dtype, mode="r").view(np.ndarray)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DataError(f"{self.path} cannot be read: {error}. {_again(folder)}") from error
        self._verify()

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, number: int) -> Arrays:
        """Return features (T, F) and sound (N,) of an utterance, as views of the file."""
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
        remedy = _again(self.path.parent)
        if len(self.numbers) != self.ends[-1]:
            raise DataError(f"{self.path} must hold {self.ends[-1]} numbers, got {len(self.numbers)}. {remedy}")
        for number, utterance in enumerate(self.utterances):
            if zlib.crc32(self._held(number).data) != utterance.crc32:
                raise DataError(
                    f"{self.path} is damaged at {utterance.speaker} {utterance.sentence} (wrong checksum). {remedy}"
                )


def write_features(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    dtype: str,
    utterances: Sequence[tuple[str, str]],
    make: Callable[[int], Iterable[Arrays]],
) -> None:
    """Write a file of features and its index, or finish an interrupted one. Complete files are left unchanged.

    The index is written after the file has reached the disk, so a file with an index is complete.

    Args:
        folder: Existing folder of the files.
        name: Name of the files, without extension.
        settings: Settings of the features; ``features`` is F.
        dtype: Number type, one of DTYPES.
        utterances: (speaker, sentence) of each utterance.
        make: Function that takes the number of the first missing utterance, and returns features and sounds from there.

    Raises:
        DataError: The files cannot be written, or exist with other settings or utterances.
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
                data.flush()  # before its entry in the journal
                log.write(json.dumps(done[-1]) + "\n")
                log.flush()
            os.fsync(data.fileno())
        part.replace(folder / f"{name}.{dtype}")
        write_json(index, {"settings": dict(settings), "dtype": dtype, "utterances": done})
        journal.unlink()


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` atomically by ``data`` as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Convert an OSError of the block into a message about ``folder``.

    Raises:
        DataError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{folder} is full ({error.strerror}). Free some space and repeat the command, which continues where "
                "it stopped, or use another folder."
            ) from error
        raise DataError(f"{folder} cannot be written: {error.strerror}. Use another folder.") from error


def _check_same(index: Path, heading: Mapping[str, Any]) -> None:
    held = FeatureFile(index.parent, index.stem, heading["settings"])
    found = {"dtype": str(held.numbers.dtype), "names": [[said.speaker, said.sentence] for said in held.utterances]}
    for what in found:
        if found[what] != heading[what]:
            raise DataError(
                f"{index.parent} was prepared from other recordings or with another number type ({what} differs). Use "
                "another folder, or remove this one."
            )


def _begun(journal: Path, part: Path, heading: Mapping[str, Any]) -> list[Utterance]:
    """Return the complete utterances of an unfinished file, and truncate the rest."""
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
    except (FileNotFoundError, ValueError):  # nothing written yet, or interrupted within the first line
        return []
    return done


def _again(folder: Path) -> str:
    return f"Remove {folder} and prepare the data again."


def _utterance(line: bytes) -> Utterance | None:
    """Parse a line of the journal; None: the end, or an incomplete line."""
    try:
        return Utterance(*json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None
