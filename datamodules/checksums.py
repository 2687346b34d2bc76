"""Checksums of files of any size."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 2**22  # bytes in memory at a time


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
