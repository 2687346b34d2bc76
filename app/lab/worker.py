"""A worker: takes runs from the queue of a study until none is left."""

from __future__ import annotations

import time
from collections.abc import Iterator

from app.commands.main import main
from app.errors import Stopped
from app.lab.directory import Phase
from app.lab.laboratory import Laboratory
from app.lab.locks import RunLock, try_lock
from app.lab.planning import REPORTING
from app.lab.process import Program, preload
from app.lab.queue import Ticket
from app.lab.training import Interrupt, train

IDLE = 0.5  # seconds between two looks at the queue while other workers train the last runs


def work(laboratory: Laboratory, program: Program = main) -> None:
    """Train runs until the study is complete, including those that workers left when they died.

    Args:
        laboratory: The study with its queue.
        program: The program whose command ``fit`` is run.

    Raises:
        Stopped: if a signal asks this worker to stop; its run has a checkpoint then.
    """
    if program is main:
        preload()
    with Interrupt() as interrupt:
        while not interrupt.number:
            laboratory.planner.advance()
            job = _next(laboratory)
            if job is not None:
                _work_on(laboratory, *job, interrupt, program)
            elif _nothing_is_left(laboratory):
                return
            else:
                time.sleep(IDLE)
    raise Stopped(interrupt.number, 0)


def _nothing_is_left(laboratory: Laboratory) -> bool:
    """Return whether the study is complete, also after planning what the last run made possible."""
    if laboratory.finished():
        laboratory.planner.advance()
    return laboratory.finished()


def _work_on(laboratory: Laboratory, ticket: Ticket, lock: RunLock, interrupt: Interrupt, program: Program) -> None:
    assert ticket.run is not None
    metric = laboratory.choose_by.name

    def hopeless(curves: list[dict[str, float]]) -> bool:
        return laboratory.queue.should_prune(ticket, [row[metric] for row in curves])

    watch = hopeless if laboratory.study.pruning and ticket.queue != REPORTING else None
    try:
        outcome = train(laboratory.directory, ticket.run, lock, metric, interrupt, watch, program)
        if outcome is not None:
            laboratory.directory.end(ticket.run, outcome)
            laboratory.queue.finish(ticket, outcome)
    finally:
        lock.release()


def _next(laboratory: Laboratory) -> tuple[Ticket, RunLock] | None:
    """Return a run that this worker may train, with its lock; None if there is none now."""
    for ticket in _tickets(laboratory):
        if ticket.run is None:
            continue  # sampled by a worker that is about to plan it
        lock = try_lock(laboratory.directory.lock(ticket.run))
        if lock is None:
            continue  # another worker trains it
        if _take(laboratory, ticket):
            return ticket, lock
        lock.release()
    return None


def _tickets(laboratory: Laboratory) -> Iterator[Ticket]:
    """Yield open tickets: tuning before reporting, the arms in turn."""
    tuning = [laboratory.queue.tickets(arm.label) for arm in laboratory.arms]
    for place in range(max(map(len, tuning), default=0)):
        yield from (tickets[place] for tickets in tuning if place < len(tickets))
    yield from laboratory.queue.tickets(REPORTING)


def _take(laboratory: Laboratory, ticket: Ticket) -> bool:
    """Return whether a run whose lock is held must be trained; settle the ticket if not."""
    assert ticket.run is not None
    outcome = laboratory.directory.outcome(ticket.run)
    if outcome is not None:  # it ran for another arm, or its worker died between the file and the queue
        laboratory.queue.finish(ticket, outcome)
        return False
    phase: Phase = "reporting" if ticket.queue == REPORTING else "tuning"
    if not laboratory.directory.is_planned(ticket.run, phase):
        laboratory.queue.discard(ticket)
        return False
    return laboratory.queue.claim(ticket)
