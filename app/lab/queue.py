"""The queue of runs, kept by Optuna: a journal file by default, or a database.

Each arm is one Optuna study, and the reporting runs are one more. So optuna-dashboard shows them, and the TPE sampler
sees the runs of its arm only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from app.errors import UserError
from app.lab.directory import Outcome, StudyDirectory
from app.lab.space import Dimension, Value
from app.lab.study import Mode

# A diverged run counts as tried: the TPE sampler ignores failed trials, but not pruned ones.
STATES = {
    "complete": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "diverged": TrialState.PRUNED,
    "pruned": TrialState.PRUNED,
}
OPEN = (TrialState.WAITING, TrialState.RUNNING)


@dataclass(frozen=True)
class Ticket:
    """An entry of the queue that is not finished.

    Attributes:
        queue: Name of the queue that it is in.
        id: Its identity in the storage.
        run: The run; None until a sampled point has been planned.
        waiting: Whether no worker has taken it yet.
        params: The point.
    """

    queue: str
    id: int
    run: str | None
    waiting: bool
    params: dict[str, Value]


class Queue:
    """Queues of a study in one storage.

    Args:
        directory: The directory of the study, for the journal.
        study: Name of the study.
        url: Database of SQLAlchemy, such as ``postgresql+psycopg://user@host/name``; None: the journal file.
        mode: Whether the metric that chooses should be high or low.
        tpe: Whether points come from the TPE sampler.

    Raises:
        UserError: if the database cannot be used.
    """

    def __init__(self, directory: StudyDirectory, study: str, url: str | None, mode: Mode, tpe: bool = False) -> None:
        self.storage = _storage(directory, url)
        self.study = study
        self.mode = mode
        self.tpe = tpe
        self._studies: dict[str, optuna.Study] = {}

    def add(self, queue: str, runs: Iterable[tuple[str, dict[str, Value]]], dimensions: Sequence[Dimension]) -> None:
        """Put runs into a queue.

        Args:
            queue: Name of the queue.
            runs: Name and point of each run.
            dimensions: The search space, for other tools to show.
        """
        space = distributions(dimensions)
        self._open(queue).add_trials(
            [
                optuna.create_trial(
                    state=TrialState.WAITING, params=point, distributions=space, user_attrs={"run": run}
                )
                for run, point in runs
            ]
        )

    def tickets(self, queue: str) -> list[Ticket]:
        """Return what is not finished in a queue, oldest first."""
        study = self._open(queue)
        trials = study.get_trials(deepcopy=False, states=OPEN)
        return [self._ticket(queue, trial) for trial in trials]

    def claim(self, ticket: Ticket) -> bool:
        """Return whether the caller, who holds the lock of the run, may train it."""
        if not ticket.waiting:
            return True  # the lock was free: its worker has died
        try:
            return self.storage.set_trial_state_values(ticket.id, TrialState.RUNNING)
        except RuntimeError:  # finished in the meantime
            return False

    def finish(self, ticket: Ticket, outcome: Outcome) -> None:
        """Tell how the run of a ticket ended."""
        state = STATES[outcome.status]
        values = [outcome.value] if outcome.value is not None and state == TrialState.COMPLETE else None
        try:
            if ticket.waiting:
                self.storage.set_trial_state_values(ticket.id, TrialState.RUNNING)
            if outcome.message:
                self.storage.set_trial_user_attr(ticket.id, "message", outcome.message)
            self.storage.set_trial_state_values(ticket.id, state, values)
        except RuntimeError:
            pass  # another worker told it first; both read the same file

    def discard(self, ticket: Ticket) -> None:
        """Close a ticket whose run is no longer planned."""
        self.finish(ticket, Outcome("pruned", None, "no longer planned", 0, 0.0))

    def sample(self, arm: str, dimensions: Sequence[Dimension]) -> Ticket:
        """Return a new ticket for a point that the TPE sampler chooses."""
        trial = self._open(arm).ask(distributions(dimensions))
        return Ticket(arm, self._id(arm, trial.number), trial.user_attrs.get("run"), False, trial.params)

    def name(self, ticket: Ticket, run: str) -> None:
        """Write which run a sampled ticket stands for."""
        self.storage.set_trial_user_attr(ticket.id, "run", run)

    def should_prune(self, ticket: Ticket, values: Sequence[float]) -> bool:
        """Report the validation values of a run so far, and return whether successive halving stops it."""
        trial = optuna.trial.Trial(self._open(ticket.queue), ticket.id)
        known = len(self.storage.get_trial(ticket.id).intermediate_values)
        for step in range(known, len(values)):
            trial.report(values[step], step)
            if trial.should_prune():
                return True
        return False

    def _open(self, queue: str) -> optuna.Study:
        if queue not in self._studies:
            self._studies[queue] = optuna.create_study(
                study_name=f"{self.study}: {queue}",
                storage=self.storage,
                load_if_exists=True,
                direction="maximize" if self.mode == "max" else "minimize",
                sampler=optuna.samplers.TPESampler(constant_liar=True) if self.tpe else None,
                pruner=optuna.pruners.SuccessiveHalvingPruner(),
            )
        return self._studies[queue]

    def _ticket(self, queue: str, trial: FrozenTrial) -> Ticket:
        waiting = trial.state == TrialState.WAITING
        return Ticket(queue, self._id(queue, trial.number), trial.user_attrs.get("run"), waiting, trial.params)

    def _id(self, queue: str, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(f"{self.study}: {queue}")
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


def distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Return a search space in Optuna's terms."""
    found: dict[str, BaseDistribution] = {}
    for dimension in dimensions:
        if dimension.kind == "choice":
            found[dimension.name] = CategoricalDistribution(dimension.values)
        elif dimension.kind == "integer":
            low, high = dimension.bounds
            found[dimension.name] = IntDistribution(int(low), int(high))
        else:
            found[dimension.name] = FloatDistribution(*dimension.bounds, log=dimension.kind == "log_uniform")
    return found


def _storage(directory: StudyDirectory, url: str | None) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if url is None:
        return JournalStorage(JournalFileBackend(str(directory.path / "journal.log")))
    if url.startswith("sqlite"):
        raise UserError(
            "storage must be a server such as postgresql+psycopg://user@host/name, got SQLite, which can give one "
            "run to two workers; leave --storage out for a journal file"
        )
    try:
        return RDBStorage(url)
    except Exception as error:  # SQLAlchemy and each driver have exceptions of their own
        raise UserError(f"storage {url!r} cannot be used: {' '.join(str(error).split())}") from error
