"""The run directory: every file of one training.

RUN/config.yaml                 the whole configuration: `fit --config` repeats the run
RUN/checkpoints/best.ckpt       the best epoch by the validation metric of the task
RUN/checkpoints/last.ckpt       the state after the last whole epoch or at the stop: `fit --resume RUN` starts from it
RUN/checkpoints/previous.ckpt   the last.ckpt before this one
RUN/tensorboard/                event files
RUN/gradients.npz               gradients through time, as arrays
RUN/results.json                metrics, versions and settings, for other programs
RUN/run.lock                    held by the process that writes the directory; only while it runs
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only

from app.errors import UserError
from datamodules.files import replacing

SHARED_PATH = "APP_RUN_DIRECTORY"  # environment variable with the run directory, for the processes of one run


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        return self.checkpoints / "previous.ckpt"

    @property
    def gradients(self) -> Path:
        return self.path / "gradients.npz"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @classmethod
    def new(cls, path: str | None, config_name: str, cell: str, seed: int | None) -> RunDirectory:
        """Return the directory of a new run: ``path``, or ``runs/CONFIG/CELL-seedSEED-TIME``.

        Rank 0 chooses it. The processes that Lightning starts from rank 0 use the same one.

        Raises:
            UserError: if a process started by another program got no ``path``, or ``path`` cannot be printed.
        """
        if path and not path.isprintable():
            raise UserError(f"run_dir must not contain control characters, got {path!r}")
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # Lightning sets it
            if not path and SHARED_PATH not in os.environ:
                raise UserError("processes started by torchrun or a cluster need the same --run_dir DIR")
            return cls(Path(path or os.environ[SHARED_PATH]))
        name = f"{cell}-seed{seed}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
        run = cls(Path(path) if path else Path("runs") / config_name / name)
        os.environ[SHARED_PATH] = str(run.path)
        return run

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunDirectory:
        """Return the run that wrote ``checkpoint``."""
        return cls(checkpoint.parent.parent)

    @contextmanager
    def locked(self, new: bool) -> Iterator[None]:
        """Create the directory if needed, and keep other processes from writing to it during the block.

        Only rank 0 holds the lock. The operating system releases the lock of a process that was killed, so its file
        does not block a later run.

        Args:
            new: Whether a run that is already in the directory is an error. A run that was killed before its first
                ``last.ckpt`` is none: it cannot be resumed, so it can be started again.

        Raises:
            UserError: if another process holds the lock, there is a run, or the directory cannot be written.
        """
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            yield
            return
        lock, owner = FileLock(self.path / "run.lock"), self.path / "run.owner"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            holder = owner.read_text(encoding="utf-8") if owner.is_file() else "another process"
            raise UserError(f"{self.path} is in use by {holder}. Wait for it, or choose another --run_dir.") from error
        except OSError as error:
            raise UserError(f"the run directory {self.path} cannot be written: {error.strerror or error}") from error
        try:
            if new and (self.last.exists() or self.results.exists()):
                raise UserError(
                    f"{self.path} contains a run. Resume it with --resume {self.path}, choose another --run_dir, or "
                    "remove it."
                )
            if new:
                self.best.unlink(missing_ok=True)  # of a run that was killed before its first last.ckpt
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            owner.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody else can have it
            lock.release()


def write_text(path: Path, text: str) -> None:
    """Replace the contents of ``path`` at once, so that a reader never finds a part of them."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
