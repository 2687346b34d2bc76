"""Texts as memory-mapped integers: read once, numbered, kept in a cache that is verified, and never held in memory.

CACHE/index.json        what it was made from (files and settings), the vocabulary, length and checksum of each part
CACHE/PART.int32        the numbers of the words of a part, 4 bytes each, little-endian
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datamodules.base import DataError
from datamodules.files import replacing, sha256
from datamodules.text.vocabulary import UnknownWordError, Vocabulary

FORMAT = 1  # of the cache; another number makes old ones stale
BLOCK = 2**22  # bytes of text that are in memory at a time


@dataclass(frozen=True)
class Reading:
    """How a text becomes words: what stands between white space, and a word for the end of each line.

    Attributes:
        end_of_line: The word that is put at the end of each line; None puts none.
        min_frequency: How often a word of the training text must occur to be in the vocabulary; above 1, ``<unk>``
            stands for the others.
    """

    end_of_line: str | None = "<eos>"
    min_frequency: int = 1


@dataclass(frozen=True)
class Tokens:
    """A vocabulary and the texts that were numbered by it, by the name of their part of the data."""

    vocabulary: Vocabulary
    parts: dict[str, np.ndarray]


def read_tokens(files: Mapping[str, Path], reading: Reading, cache: Path, vocabulary: Vocabulary | None) -> Tokens:
    """The texts in ``files`` as numbers, out of ``cache`` if it was made from these files with these settings.

    Otherwise the cache is made anew, with progress bars. Memory is needed for the vocabulary and a block of text only.

    Args:
        files: The text of each part, UTF-8; the vocabulary is that of ``train``.
        reading: How a text becomes words.
        cache: Folder of the cache.
        vocabulary: A vocabulary to use in place of that of ``train``.

    Raises:
        DataError: if a file cannot be read or is empty, has a word that the vocabulary has not, or if the cache cannot
            be written.
    """
    settings = {
        "end_of_line": reading.end_of_line,
        "min_frequency": reading.min_frequency,
        "vocabulary": vocabulary and vocabulary.digest,
    }
    found = _read_cache(files, settings, cache)
    if found is not None:
        return found
    if vocabulary is None:
        vocabulary = Vocabulary.of_counts(_count_words(files["train"], reading), reading.min_frequency)
    index: dict[str, Any] = {"format": FORMAT, "settings": settings, "words": vocabulary.words}
    index["parts"] = {}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for part, path in files.items():
            source = {**_stamp(path), "sha256": sha256(path)}
            with replacing(cache / f"{part}.int32") as temporary:
                count, checksum = _write_numbers(path, reading, vocabulary, temporary)
            index["parts"][part] = {"source": source, "count": count, "crc32": checksum}
        with replacing(cache / "index.json") as temporary:
            temporary.write_text(json.dumps({**index, "digest": _digest(index)}), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the numbered texts cannot be written to {cache}: {error.strerror}; name another folder by --data.cache"
        ) from error
    return Tokens(vocabulary, {part: _mapped(cache, part, index["parts"][part]["count"]) for part in files})


def number_text(path: Path, reading: Reading, vocabulary: Vocabulary) -> np.ndarray:
    """A text as numbers, in memory.

    Raises:
        DataError: if the file cannot be read or is empty, or has a word that the vocabulary has not.
    """
    return np.concatenate(list(_number_blocks(path, reading, vocabulary)))


def _read_cache(files: Mapping[str, Path], settings: Mapping[str, Any], cache: Path) -> Tokens | None:
    """What the cache holds, or None if it is not there, not whole, or was made from something else."""
    try:
        index = json.loads((cache / "index.json").read_text(encoding="utf-8"))
        digest = index.pop("digest")
        if digest != _digest(index) or index["format"] != FORMAT or index["settings"] != settings:
            return None
        parts = {}
        for part, path in files.items():
            kept = index["parts"][part]
            stamp = _stamp(path)
            same_file = stamp.items() <= kept["source"].items()
            if stamp["bytes"] != kept["source"]["bytes"] or not (same_file or sha256(path) == kept["source"]["sha256"]):
                return None
            if (cache / f"{part}.int32").stat().st_size != 4 * kept["count"]:
                return None
            parts[part] = _mapped(cache, part, kept["count"])
            if zlib.crc32(parts[part].data) != kept["crc32"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no cache, or a damaged one
        return None
    return Tokens(Vocabulary(index["words"]), parts)


def _mapped(cache: Path, part: str, count: int) -> np.ndarray:
    return np.memmap(cache / f"{part}.int32", dtype="<i4", mode="r", shape=(count,))


def _stamp(path: Path) -> dict[str, int]:
    """What a file that was not changed keeps."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _digest(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _blocks(path: Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a text, some at a time, and the number of the first of them; with a progress bar on a terminal."""
    try:
        size = path.stat().st_size
        line = 1
        with (
            path.open("rb") as file,
            tqdm(total=size, desc=f"{what} {path.name}", unit="B", unit_scale=True, disable=None, leave=False) as bar,
        ):
            while lines := file.readlines(BLOCK):
                try:
                    yield line, [text.decode("utf-8") for text in lines]
                except UnicodeDecodeError as error:
                    raise DataError(f"{path} is no UTF-8 text ({error}), near line {line}") from error
                line += len(lines)
                bar.update(sum(map(len, lines)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _words(lines: list[str], reading: Reading) -> list[str]:
    """The words of some lines."""
    if reading.end_of_line is None:
        return "".join(lines).split()
    return [word for line in lines for word in (*line.split(), reading.end_of_line)]


def _count_words(path: Path, reading: Reading) -> Counter[str]:
    counts: Counter[str] = Counter()
    for _, lines in _blocks(path, "counting"):
        counts.update(_words(lines, reading))
    return counts


def _write_numbers(path: Path, reading: Reading, vocabulary: Vocabulary, output: Path) -> tuple[int, int]:
    """Write the numbers of a text's words; returns how many there are, and their checksum."""
    count = checksum = 0
    with output.open("wb") as file:
        for block_N in _number_blocks(path, reading, vocabulary):
            file.write(block_N.data)
            checksum = zlib.crc32(block_N.data, checksum)
            count += len(block_N)
    return count, checksum


def _number_blocks(path: Path, reading: Reading, vocabulary: Vocabulary) -> Iterator[np.ndarray]:
    """The numbers of a text's words, some at a time."""
    empty = True
    for first, lines in _blocks(path, "numbering"):
        try:
            numbers = vocabulary.numbers(_words(lines, reading))
        except UnknownWordError as error:
            word = error.args[0]
            line = first + next(i for i, text in enumerate(lines) if word in _words([text], reading))
            raise DataError(
                f"{path} has the word {word!r} in line {line}, which is not in the vocabulary; words of the training "
                "text are expected, or a training text with <unk>, which then stands for all others"
            ) from error
        empty = empty and not any(map(str.strip, lines))
        yield np.array(numbers, dtype="<i4")
    if empty:
        raise DataError(f"{path} is empty; a text is expected")
