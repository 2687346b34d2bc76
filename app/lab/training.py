"""One run of a study: ``fit`` in a separate process, resumed until it has ended."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from app.commands.main import main
from app.errors import DivergenceError, LostProcessError
from app.lab.directory import Outcome, StudyDirectory
from app.lab.locks import RunLock
from app.lab.process import SERVER_LOST, Program, start

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
STOPPED = {LostProcessError.status, *(128 + number for number in SIGNALS)}
STARTS_WITHOUT_PROGRESS = 3  # a run that is killed so often without a new checkpoint would be killed for ever
POLL = 0.05  # seconds
PATIENCE = 120  # seconds for a checkpoint after SIGTERM


class Interrupt:
    """Remembers the signal that asks this process to stop, instead of ending it at once, while the block runs.

    Attributes:
        number: The signal; 0 before there was one.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self.number = number


def train(
    directory: StudyDirectory,
    run: str,
    lock: RunLock,
    metric: str,
    interrupt: Interrupt,
    hopeless: Callable[[list[dict[str, float]]], bool] | None = None,
    program: Program = main,
) -> Outcome | None:
    """Train a run until it has ended, resuming it where it was interrupted.

    Args:
        directory: The directory of the study.
        run: Name of the run.
        lock: Its lock, which the training inherits.
        metric: Validation metric that becomes the value of the run.
        interrupt: Says when this worker should stop.
        hopeless: Says from the curves so far whether to stop the run for good.
        program: The program whose command ``fit`` is run.

    Returns:
        How it ended; None if this worker was asked to stop, after a checkpoint was written.

    Raises:
        LostProcessError: if the process that starts trainings was killed.
    """
    began = time.monotonic()
    log = directory.log(run)
    useless = 0

    def outcome(status: str, value: float | None = None, message: str = "") -> Outcome:
        starts = log.read_text(encoding="utf-8", errors="replace").count("\n$ ") if log.exists() else 0
        return Outcome(status, value, message, starts, round(time.monotonic() - began, 3))  # type: ignore[arg-type]

    if directory.results(run) is not None:  # its worker died before it could say so
        return outcome(*_value(directory, run, metric))
    while not interrupt.number:
        before = _progress(directory.run(run))
        arguments = ["fit", *_start_or_resume(directory, run)]
        with log.open("a", encoding="utf-8") as output:
            output.write(f"\n$ python -m app {' '.join(arguments)}\n")
        process = start(arguments, log, lock, program)
        pruned = _wait(process, directory, run, interrupt, hopeless)
        status = process.exitcode
        assert status is not None  # it has ended
        if status == SERVER_LOST:  # its training, which cannot be watched any longer, ends when this worker does
            raise LostProcessError("the process that starts trainings was lost. The same command continues the study.")
        if status == 0:
            return outcome(*_value(directory, run, metric))
        if pruned:
            return outcome("pruned", message="stopped by successive halving")
        if status == DivergenceError.status:
            return outcome("diverged", message=_last_words(log))
        if status not in STOPPED and status > 0:
            return outcome("failed", message=_last_words(log))
        useless = 0 if _progress(directory.run(run)) != before else useless + 1
        if useless == STARTS_WITHOUT_PROGRESS and not interrupt.number:
            return outcome("failed", message=f"ended {useless} times with status {status} without a new checkpoint")
    return None


def _start_or_resume(directory: StudyDirectory, run: str) -> list[str]:
    folder = directory.run(run)
    checkpoints = folder / "checkpoints"
    if any((checkpoints / name).exists() for name in ("last.ckpt", "previous.ckpt")) or len(directory.curves(run)) > 1:
        return ["--resume", str(folder)]  # if the checkpoint is missing, fit says so
    return ["--config", str(directory.config(run)), "--run_dir", str(folder)]


def _wait(
    process: ForkServerProcess,
    directory: StudyDirectory,
    run: str,
    interrupt: Interrupt,
    hopeless: Callable[[list[dict[str, float]]], bool] | None,
) -> bool:
    """Wait for the end of a training, and return whether it was stopped for good."""
    asked_at: float | None = None
    pruned = False
    rows = 0
    while True:
        process.join(POLL)
        if process.exitcode is not None:
            return pruned
        if hopeless and asked_at is None:
            curves = directory.curves(run)
            if len(curves) > rows:
                rows = len(curves)
                pruned = hopeless(curves)
        if asked_at is None and (interrupt.number or pruned):
            process.terminate()
            asked_at = time.monotonic()
        elif asked_at is not None and time.monotonic() - asked_at > PATIENCE:
            process.kill()


def _value(directory: StudyDirectory, run: str, metric: str) -> tuple[str, float | None, str]:
    validation: Mapping[str, float] = (directory.results(run) or {}).get("validation", {})
    if metric not in validation:
        known = ", ".join(validation) or "none"
        return "failed", None, f"results.json must have the validation metric {metric}, got {known}"
    value = float(validation[metric])
    if not math.isfinite(value):
        return "diverged", None, f"validation {metric} is {value}"
    return "complete", value, ""


def _progress(folder: Path) -> int:
    """Return when the last checkpoint was written, or 0."""
    try:
        return (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _last_words(log: Path) -> str:
    """Return the error message at the end of the output."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines[-20:] if line.startswith("error: ")]
    return (errors or lines)[-1].removeprefix("error: ")
