"""``python -m app sweep``: start or continue a study."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from app.commands.console import Parser, echo, table
from app.errors import Stopped, UserError
from app.lab.checked import Checked
from app.lab.directory import STUDIES, StudyDirectory, study_directory
from app.lab.locks import is_locked
from app.lab.reading import read_study
from app.lab.resources import share
from app.lab.study import find_file
from app.lab.training import Interrupt

REFRESH = 1.0  # seconds between two updates of the progress bar
STATES = ("complete", "diverged", "failed", "pruned", "running", "interrupted", "waiting")


def sweep(options: Sequence[str]) -> None:
    """Run a study, one more worker of it, or say how far it is.

    Raises:
        UserError: for a mistake in the options or in the study.
        Stopped: if a signal asks to stop; ``sweep`` with the same options continues.
    """
    parser = Parser(prog="python -m app sweep", description="Start or continue a study: tune and compare cells.")
    parser.add_argument("study", help="study file, such as configs/studies/momentum_digits.yaml")
    parser.add_argument("--workers", type=PositiveInt, default=1, help="processes that train at the same time")
    parser.add_argument("--worker", action="store_true", help="be one worker, without a progress bar")
    parser.add_argument("--status", action="store_true", help="say how far the study is")
    parser.add_argument("--retry", choices=["failed"], help="start failed runs again, from scratch")
    parser.add_argument("--storage", help="database for the queue (default: a journal file in the study's directory)")
    parser.add_argument("--dir", type=Path, help=f"directory of the study (default: {STUDIES}/NAME)")
    arguments = parser.parse_args(options)
    study = read_study(find_file(arguments.study, "the study"))
    directory = study_directory(study.name, arguments.dir)
    if arguments.status:
        echo(status_table(directory))
        return
    from app.lab.laboratory import Laboratory  # needs Optuna

    laboratory = Laboratory(study, directory, arguments.storage)
    if arguments.retry:
        echo(f"{laboratory.planner.retry_failed()} failed runs start again")
    if arguments.worker:
        from app.lab.worker import work

        work(laboratory)
        return
    echo(f"study directory: {directory.path}\n{status_table(directory)}")
    _run_workers(directory, options, arguments.workers)
    echo(status_table(directory))
    if not laboratory.finished():
        raise UserError("the workers have ended before the study was complete; the same command continues it")
    echo(f"report it with:  python -m app report {arguments.study}")


def status_table(directory: StudyDirectory) -> str:
    """Return how many runs of each arm are in which state.

    Raises:
        UserError: if the study was never started.
    """
    found = Checked.read(directory.path / "checked.json")
    if found is None:
        raise UserError(f"there is no study in {directory.path}; start it without --status")
    rows = []
    for arm in found[0].arms:
        for phase in ("tuning", "reporting"):
            runs = [planned.run for planned in directory.planned(arm.folder, phase)]
            counts = Counter(_state(directory, run) for run in runs)
            rows.append([arm.label, phase, len(runs), *(counts[state] for state in STATES)])
    return table(["cell", "phase", "planned", *STATES], rows)


def _state(directory: StudyDirectory, run: str) -> str:
    if outcome := directory.outcome(run):
        return outcome.status
    if is_locked(directory.lock(run)):
        return "running"
    return "interrupted" if directory.log(run).exists() else "waiting"


def _run_workers(directory: StudyDirectory, options: Sequence[str], count: int) -> None:
    """Start workers, show how many runs have ended, and wait until all workers have ended."""
    command = [sys.executable, "-m", "app", "sweep", *_for_workers(options), "--worker"]
    with Interrupt() as interrupt, tqdm(total=0, unit="run", dynamic_ncols=True, disable=None) as bar:
        workers = [subprocess.Popen(command, env={**os.environ, **share(number, count)}) for number in range(count)]
        while any(worker.poll() is None for worker in workers):
            _show(directory, bar)
            if interrupt.number:
                for worker in workers:
                    worker.terminate()
                for worker in workers:
                    worker.wait()
                raise Stopped(interrupt.number, 0)
            time.sleep(REFRESH)
        _show(directory, bar)
    if failed := [worker.returncode for worker in workers if worker.returncode]:
        echo(f"{len(failed)} of {count} workers ended early, with status {', '.join(map(str, failed))}")


def _show(directory: StudyDirectory, bar: tqdm) -> None:
    planned = {path.stem for path in (directory.path / "plan").glob("*/*/*.json")}
    bar.total = len(planned)
    bar.n = len(planned & directory.ended())
    bar.refresh()


def _for_workers(options: Sequence[str]) -> list[str]:
    """Return the options without those of the process that starts the workers."""
    kept = []
    skipped = False
    for option in options:
        flag, equals, _ = option.partition("=")
        if skipped:
            skipped = False
        elif flag in ("--workers", "--retry"):
            skipped = not equals
        else:
            kept.append(option)
    return kept
