"""The lock that tells a run in training from one whose worker has died.

It is a lock of the operating system on a file, so it ends with the processes that hold it, however they end. The
training process inherits it from its worker: if a worker alone is killed, the run stays locked until its training has
ended too. ``filelock`` does not give its file descriptor, which this needs.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunLock:
    """A lock that is held.

    Attributes:
        descriptor: The open file, for a process that should hold the lock too.
    """

    descriptor: int

    def release(self) -> None:
        """Give the lock back, except where another process inherited it."""
        os.close(self.descriptor)


def try_lock(path: Path) -> RunLock | None:
    """Return the lock on a file, or None if a living process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return RunLock(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock."""
    if not path.exists():
        return False
    lock = try_lock(path)
    if lock:
        lock.release()
    return lock is None
