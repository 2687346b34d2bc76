"""Atomic replacement of files, and checksums of files."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 2**22  # bytes in memory at a time
UNFINISHED = ".unfinished-"  # prefix of temporary names


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file in the folder of ``path``, and rename it to ``path`` at the end of the block.

    If the block raises, the new file is removed and ``path`` is unchanged. The temporary name is random, so that nobody
    can place a link under it in advance.
    """
    temporary = path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of :func:`replacing` that killed processes left in ``folder``."""
    for path in folder.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of the contents of a file."""
    return _digest(path, "sha256")


def md5(path: Path) -> str:
    """Return the MD5 of the contents of a file, for comparison with published checksums."""
    return _digest(path, "md5")


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
