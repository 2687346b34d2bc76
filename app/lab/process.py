"""The process that trains a run, forked from a server that has imported the program once.

Importing takes several seconds, which is as long as a short run. The server itself never trains, so each run starts
from the same clean state.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from app.commands.main import main
from app.lab.locks import RunLock

SERVER_LOST = 255  # exit status that multiprocessing reports if the server was killed
Program = Callable[[Sequence[str]], int]


def preload(module: str = "app.commands.fit") -> None:
    """Let the server import a module before its first run."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([module])


def start(arguments: Sequence[str], log: Path, lock: RunLock, program: Program = main) -> ForkServerProcess:
    """Start a command of the program in a new process.

    Args:
        arguments: The command and its options.
        log: File to which its output is appended.
        lock: A lock that the process inherits.
        program: The program; it returns the exit status.
    """
    process = multiprocessing.get_context("forkserver").Process(
        target=_run, args=(list(arguments), str(log), _Inherited(lock.descriptor), program)
    )
    process.start()
    return process


class _Inherited:
    """A file descriptor that the new process keeps open until it ends."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> Any:
        return _detach, (DupFd(self.descriptor),)


def _detach(duplicate: Any) -> int:
    descriptor: int = duplicate.detach()
    return descriptor


def _run(arguments: list[str], log: str, descriptor: int, program: Program) -> None:
    threading.Thread(target=_end_with_worker, daemon=True).start()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    sys.argv[1:] = arguments  # Lightning starts further processes of the run with these
    sys.exit(program(arguments))


def _end_with_worker() -> None:
    """Send this process SIGTERM when its worker has died, so that it writes a checkpoint and ends."""
    worker = multiprocessing.parent_process()
    assert worker is not None
    worker.join()
    os.kill(os.getpid(), signal.SIGTERM)
