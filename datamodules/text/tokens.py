"""Texts as memory-mapped numbers of their words or characters, in a verified cache on disk.

CACHE/index.json        sources (files and settings), vocabulary, and length and checksum of each part
CACHE/PART.int32        token numbers of a part, 4 bytes each, little-endian
"""

from __future__ import annotations

import codecs
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datamodules.base import DataError
from datamodules.files import replacing, sha256
from datamodules.text.reading import Reading
from datamodules.text.vocabulary import UnknownWordError, Vocabulary

FORMAT = 2  # of the cache; caches of other formats are stale
BLOCK = 2**22  # bytes of text in memory at a time


@dataclass(frozen=True)
class Tokens:
    """Vocabulary, and token numbers of each part of the data by name."""

    vocabulary: Vocabulary
    parts: dict[str, np.ndarray]


def read_tokens(files: Mapping[str, Path], reading: Reading, cache: Path, vocabulary: Vocabulary | None) -> Tokens:
    """Return texts as token numbers, from ``cache`` if it was made from the same files with the same settings.

    Otherwise the cache is written, with progress bars. Memory holds only the vocabulary and one block of text.

    Args:
        files: UTF-8 text of each part; the vocabulary is that of ``train``.
        reading: Settings that divide a text into tokens.
        cache: Folder of the cache.
        vocabulary: Vocabulary to use instead of that of ``train``.

    Raises:
        DataError: A file cannot be read, is empty, or contains an unknown token, or the cache cannot be written.
    """
    settings = {**asdict(reading), "vocabulary": vocabulary and vocabulary.digest}
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
            f"the cache {cache} cannot be written: {error.strerror}. Set another folder with --data.cache."
        ) from error
    return Tokens(vocabulary, {part: _mapped(cache, part, index["parts"][part]["count"]) for part in files})


def number_text(path: Path, reading: Reading, vocabulary: Vocabulary) -> np.ndarray:
    """Return a text as token numbers in memory.

    Raises:
        DataError: The file cannot be read, is empty, or contains an unknown token.
    """
    return np.concatenate(list(_number_blocks(path, reading, vocabulary)))


def _read_cache(files: Mapping[str, Path], settings: Mapping[str, Any], cache: Path) -> Tokens | None:
    """Return the contents of the cache; None: it is missing, incomplete, or has other sources."""
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
    """Return size and time of modification, by which a change of the file is detected."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _digest(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _blocks(path: Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """Yield blocks of lines with the number of their first line, with a progress bar on a terminal.

    A byte-order mark at the start of the file is removed.
    """
    try:
        size = path.stat().st_size
        line = 1
        with (
            path.open("rb") as file,
            tqdm(total=size, desc=f"{what} {path.name}", unit="B", unit_scale=True, disable=None, leave=False) as bar,
        ):
            while lines := file.readlines(BLOCK):
                if line == 1:
                    lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
                try:
                    yield line, [text.decode("utf-8") for text in lines]
                except UnicodeDecodeError as error:
                    raise DataError(f"{path} must be UTF-8 text, got {error} near line {line}") from error
                line += len(lines)
                bar.update(sum(map(len, lines)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _count_words(path: Path, reading: Reading) -> Counter[str]:
    counts: Counter[str] = Counter()
    for _, lines in _blocks(path, "counting"):
        counts.update(reading.tokens(lines))
    return counts


def _write_numbers(path: Path, reading: Reading, vocabulary: Vocabulary, output: Path) -> tuple[int, int]:
    """Write the token numbers of a text, and return their count and checksum."""
    count = checksum = 0
    with output.open("wb") as file:
        for block_N in _number_blocks(path, reading, vocabulary):
            file.write(block_N.data)
            checksum = zlib.crc32(block_N.data, checksum)
            count += len(block_N)
    return count, checksum


def _number_blocks(path: Path, reading: Reading, vocabulary: Vocabulary) -> Iterator[np.ndarray]:
    """Yield blocks of the token numbers of a text."""
    empty = True
    for first, lines in _blocks(path, "numbering"):
        try:
            numbers = vocabulary.numbers(reading.tokens(lines))
        except UnknownWordError as error:
            word = error.args[0]
            line = first + next(i for i, text in enumerate(lines) if word in reading.tokens([text]))
            raise DataError(
                f"{path} has the {reading.unit} {word!r} in line {line}, which is not in the vocabulary. Use "
                f"{reading.unit}s of the training text, or a training text that contains <unk>, which then replaces "
                f"all other {reading.unit}s."
            ) from error
        empty = empty and not any(map(str.strip, lines))
        yield np.array(numbers, dtype="<i4")
    if empty:
        raise DataError(f"{path} must be a text, got an empty file")
