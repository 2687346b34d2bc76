"""Which runs a study needs: tuning runs from the start, reporting runs once an arm has its best configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

from filelock import FileLock

from app.lab.arms import Arm, with_seed
from app.lab.configuration import run_name
from app.lab.directory import Outcome, Phase, Planned, StudyDirectory
from app.lab.queue import Queue, Ticket
from app.lab.space import Value, grid, independent, quasi_random
from app.lab.study import Metric, Study

REPORTING = "reporting"  # name of the queue of all reporting runs
PHASES: tuple[Phase, ...] = ("tuning", "reporting")


class Planner:
    """Keeps plan and queue of a study in agreement. Every change is made under one lock.

    Args:
        study: The study.
        arms: Its cells and controls.
        choose_by: Metric that chooses the best configuration.
        directory: The directory of the study.
        queue: The queue of the study.
    """

    def __init__(
        self, study: Study, arms: Sequence[Arm], choose_by: Metric, directory: StudyDirectory, queue: Queue
    ) -> None:
        self.study = study
        self.arms = arms
        self.choose_by = choose_by
        self.directory = directory
        self.queue = queue

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the plan."""
        with FileLock(self.directory.path / "locks" / "plan"):
            yield

    def plan(self, fingerprint: str) -> None:
        """Plan what the study file asks for, drop what it no longer asks for, and queue what did not run yet.

        Args:
            fingerprint: Hash of the study; the plan of the same study is not made again.
        """
        marker = self.directory.path / "plan" / "fingerprint"
        with self.locked():
            if not marker.exists() or marker.read_text(encoding="utf-8") != fingerprint:
                self.directory.drop_other_arms(arm.folder for arm in self.arms)
                for arm in self.arms:
                    points = self.points(arm)
                    if points is not None:
                        self.plan_runs(arm, "tuning", points)
                marker.write_text(fingerprint, encoding="utf-8")
            for arm in self.arms:
                self.enqueue(arm, "tuning")
                self.enqueue(arm, "reporting")
            self.plan_reporting()

    def advance(self) -> None:
        """Plan what has become possible: reporting runs, and the next point of the TPE sampler."""
        with self.locked():
            self.plan_reporting()
            if self.study.sampler == "tpe" and not self.has_free_ticket():
                self.sample()

    def retry_failed(self) -> int:
        """Start every failed run again from scratch, and return how many there are."""
        retried = 0
        with self.locked():
            for arm in self.arms:
                for phase in PHASES:
                    for planned in self.directory.planned(arm.folder, phase):
                        outcome = self.directory.outcome(planned.run)
                        if outcome is None or outcome.status != "failed":
                            continue
                        self.directory.reopen(planned.run)
                        retried += 1
                    self.enqueue(arm, phase)
        return retried

    def points(self, arm: Arm) -> list[dict[str, Value]] | None:
        """Return the points of an arm in order; None if the sampler chooses them one after another."""
        if not arm.dimensions:
            return []  # nothing to tune
        if self.study.sampler == "grid":
            return grid(arm.dimensions)
        assert self.study.trials is not None  # read_study saw to it
        if self.study.sampler == "tpe":
            return None
        draw = independent if self.study.sampler == "independent" else quasi_random
        return draw(arm.dimensions, self.study.trials)

    def plan_runs(self, arm: Arm, phase: Phase, points: Sequence[dict[str, Value]]) -> None:
        """Make the plan of an arm hold these points with all seeds of the phase."""
        seeds = self.study.tuning_seeds if phase == "tuning" else self.study.reporting_seeds
        before = {planned.run for planned in self.directory.planned(arm.folder, phase)}
        wanted: dict[str, Planned] = {}
        for number, drawn in enumerate(points):
            for seed in seeds:
                planned = self.plan_run(arm, phase, drawn, seed, number, known=before)
                wanted.setdefault(planned.run, planned)
        for run in before - wanted.keys():
            self.directory.drop(arm.folder, phase, run)

    def enqueue(self, arm: Arm, phase: Phase) -> None:
        """Queue the planned runs of an arm that have neither ended nor a ticket."""
        queue = REPORTING if phase == "reporting" else arm.label
        queued = {ticket.run for ticket in self.queue.tickets(queue)} | self.directory.ended()
        waiting = [planned for planned in self.directory.planned(arm.folder, phase) if planned.run not in queued]
        if phase == "reporting":  # points of different arms have different dimensions
            self.queue.add(queue, [(planned.run, {}) for planned in waiting], ())
        else:
            self.queue.add(queue, [(planned.run, planned.drawn) for planned in waiting], arm.dimensions)

    def plan_run(
        self, arm: Arm, phase: Phase, drawn: dict[str, Value], seed: int, number: int, known: Collection[str] = ()
    ) -> Planned:
        """Add a run to the plan unless it is in ``known``."""
        config, values = arm.at(drawn)
        config = with_seed(config, seed)
        planned = Planned(run_name(config), seed, number, drawn, values)
        if planned.run not in known:
            self.directory.plan(arm.folder, phase, planned, config)
        return planned

    def plan_reporting(self) -> None:
        """Plan the reporting runs of every arm whose tuning has ended."""
        ended = self.directory.ended()
        for arm in self.arms:
            tuning = self.directory.planned(arm.folder, "tuning")
            expected = (self.study.trials or 0) if self.study.sampler == "tpe" else 1
            if arm.dimensions and (len(tuning) < expected or any(planned.run not in ended for planned in tuning)):
                continue
            outcomes = {planned.run: self.directory.outcome(planned.run) for planned in tuning}
            best = best_point(tuning, outcomes, self.choose_by) if arm.dimensions else {}
            reporting = self.directory.planned(arm.folder, "reporting")
            if best is None:
                continue
            seeds = {planned.seed for planned in reporting}
            drawn = [planned.drawn for planned in reporting]
            if seeds != set(self.study.reporting_seeds) or any(point != best for point in drawn):
                self.plan_runs(arm, "reporting", [best])
                self.enqueue(arm, "reporting")

    def has_free_ticket(self) -> bool:
        """Return whether a tuning run waits; a point that was sampled but not planned is planned here."""
        free = False
        for arm in self.arms:
            for ticket in self.queue.tickets(arm.label):
                if ticket.run is None:  # the worker that sampled it has died
                    self.plan_sampled(arm, ticket)
                free = free or ticket.waiting
        return free

    def sample(self) -> None:
        """Let the TPE sampler choose the next point for the arm that has the fewest."""
        counts = [
            (len(self.directory.planned(arm.folder, "tuning")), place)
            for place, arm in enumerate(self.arms)
            if arm.dimensions
        ]
        count, place = min(counts, default=(0, -1))
        if place >= 0 and count < (self.study.trials or 0):
            arm = self.arms[place]
            self.plan_sampled(arm, self.queue.sample(arm.label, arm.dimensions))

    def plan_sampled(self, arm: Arm, ticket: Ticket) -> None:
        """Plan the point of a ticket."""
        drawn = {dimension.name: dimension.rounded(ticket.params[dimension.name]) for dimension in arm.dimensions}
        number = len(self.directory.planned(arm.folder, "tuning"))
        planned = self.plan_run(arm, "tuning", drawn, self.study.tuning_seeds[0], number)
        self.queue.name(ticket, planned.run)


def best_point(
    tuning: Sequence[Planned], outcomes: dict[str, Outcome | None], choose_by: Metric
) -> dict[str, Value] | None:
    """Return the point with the best mean over seeds, or None if no point is complete.

    A point with a failed or diverged seed is not chosen.
    """
    points: dict[int, list[Planned]] = {}
    for planned in tuning:
        points.setdefault(planned.number, []).append(planned)
    best: tuple[float, dict[str, Value]] | None = None
    for runs in points.values():
        values = [outcome.value for run in runs if (outcome := outcomes[run.run]) and outcome.value is not None]
        if len(values) == len(runs) and (best is None or choose_by.better(fmean(values), best[0])):
            best = fmean(values), runs[0].drawn
    return None if best is None else best[1]
