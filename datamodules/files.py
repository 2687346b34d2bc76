"""Atomic replacement of files, and their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 2**22  # bytes in memory at a time


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place when the block ends, and vanishes if the block fails."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what :func:`replacing` was writing in ``folder`` when its process was killed."""
    for path in folder.glob(".[0-9]*-*"):
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's contents."""
    return _digest(path, "sha256")


def md5(path: Path) -> str:
    """MD5 of a file's contents, where that is what was published."""
    return _digest(path, "md5")


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
