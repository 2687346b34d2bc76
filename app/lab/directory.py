"""The directory of a study: what is planned, what ran, and what came of it. Everything is plain files.

STUDY/checked.json                arms as they were checked
STUDY/plan/ARM/PHASE/RUN.json     a planned run: its point and its seed
STUDY/configs/RUN.yaml            the configuration that `fit` gets
STUDY/runs/RUN/                   the run directory
STUDY/outcomes/RUN.json           how the run ended
STUDY/logs/RUN.log                what `fit` printed
STUDY/locks/RUN.lock              held while the run is trained
STUDY/discarded/RUN-N/            run directories of failed runs that were started again
STUDY/journal.log                 Optuna's queue, unless it is in a database
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from app.lab.configuration import Config
from app.lab.space import Value

STUDIES = Path("runs/studies")
Phase = Literal["tuning", "reporting"]
Status = Literal["complete", "failed", "diverged", "pruned"]


@dataclass(frozen=True)
class Planned:
    """A run that belongs to an arm.

    Attributes:
        run: Name of the run, and of its directory.
        seed: Its seed.
        number: Count of the point in its arm, from 0.
        drawn: The point in the search space of the arm, or of its parent.
        values: The values of what the arm tunes.
    """

    run: str
    seed: int
    number: int
    drawn: dict[str, Value]
    values: dict[str, Value]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: ``complete``; ``failed``; ``diverged`` (numbers that are not finite); ``pruned``.
        value: The validation metric that chooses, of a complete run.
        message: Why it is not complete.
        starts: How often its training was started or resumed.
        seconds: Time from start to end, of all starts together.
    """

    status: Status
    value: float | None
    message: str
    starts: int
    seconds: float


@dataclass(frozen=True)
class StudyDirectory:
    """Paths of a study, and reading and writing its files."""

    path: Path

    def run(self, name: str) -> Path:
        """Return the run directory of a run."""
        return self.path / "runs" / name

    def config(self, name: str) -> Path:
        """Return the configuration file of a run."""
        return self.path / "configs" / f"{name}.yaml"

    def log(self, name: str) -> Path:
        """Return the file with the output of a run."""
        return self.path / "logs" / f"{name}.log"

    def lock(self, name: str) -> Path:
        """Return the file that is locked while a run is trained."""
        return self.path / "locks" / f"{name}.lock"

    def make(self) -> None:
        """Make the folders."""
        for name in ("plan", "runs", "configs", "outcomes", "logs", "locks"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def planned(self, arm: str, phase: Phase) -> list[Planned]:
        """Return the planned runs of an arm (named by its folder), by point and seed."""
        found = [Planned(**_read(path)) for path in (self.path / "plan" / arm / phase).glob("*.json")]
        return sorted(found, key=lambda planned: (planned.number, planned.seed))

    def plan(self, arm: str, phase: Phase, planned: Planned, config: Config) -> None:
        """Add a run to the plan."""
        if not self.config(planned.run).exists():
            write_text(self.config(planned.run), yaml.safe_dump(config, sort_keys=False))
        path = self.path / "plan" / arm / phase / f"{planned.run}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(planned), indent=1))

    def drop(self, arm: str, phase: Phase, run: str) -> None:
        """Take a run out of the plan; what it left stays."""
        (self.path / "plan" / arm / phase / f"{run}.json").unlink(missing_ok=True)

    def drop_other_arms(self, arms: Iterable[str]) -> None:
        """Take all runs of arms that the study no longer has out of the plan."""
        kept = set(arms)
        for folder in (self.path / "plan").iterdir():
            if folder.is_dir() and folder.name not in kept:
                shutil.rmtree(folder)

    def is_planned(self, run: str, phase: Phase) -> bool:
        """Return whether any arm has this run in its plan."""
        return any((self.path / "plan").glob(f"*/{phase}/{run}.json"))

    def outcome(self, run: str) -> Outcome | None:
        """Return how a run ended, or None if it has not."""
        path = self.path / "outcomes" / f"{run}.json"
        return Outcome(**_read(path)) if path.exists() else None

    def ended(self) -> set[str]:
        """Return the names of all runs that have ended."""
        return {path.stem for path in (self.path / "outcomes").glob("*.json")}

    def end(self, run: str, outcome: Outcome) -> None:
        """Write how a run ended."""
        write_text(self.path / "outcomes" / f"{run}.json", json.dumps(asdict(outcome), indent=1))

    def reopen(self, run: str) -> None:
        """Forget how a run ended, and set its run directory aside."""
        (self.path / "outcomes" / f"{run}.json").unlink(missing_ok=True)
        if self.run(run).exists():
            discarded = self.path / "discarded"
            discarded.mkdir(exist_ok=True)
            self.run(run).rename(discarded / f"{run}-{len(list(discarded.glob(f'{run}-*'))) + 1}")

    def results(self, run: str) -> dict[str, Any] | None:
        """Return ``results.json`` of a run, or None if it has none."""
        path = self.run(run) / "results.json"
        return _read(path) if path.exists() else None

    def curves(self, run: str) -> list[dict[str, float]]:
        """Return the rows that :class:`app.lab.curves.Curves` wrote: one for each validation."""
        path = self.run(run) / "curves.json"
        rows: list[dict[str, float]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return rows


def study_directory(name: str, given: Path | None) -> StudyDirectory:
    """Return the directory of a study: as given, or by its name."""
    return StudyDirectory((given or STUDIES / name).absolute())


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` is the old or the new file at any time.

    :func:`datamodules.files.replacing` does the same, but its package imports torch, which takes a worker seconds.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
