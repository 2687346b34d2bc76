"""A study that is open: its arms, its directory and, for workers, its queue."""

from __future__ import annotations

from filelock import FileLock

from app.lab.checked import Checked, fingerprint_of
from app.lab.directory import StudyDirectory
from app.lab.planning import Planner
from app.lab.queue import Queue
from app.lab.study import Study


class Laboratory:
    """A study with everything that its workers share.

    Args:
        study: The study.
        directory: Its directory.
        url: Database of the queue; None: a journal file in the directory.

    Raises:
        UserError: if the study has mistakes, or the database cannot be used.
    """

    def __init__(self, study: Study, directory: StudyDirectory, url: str | None = None) -> None:
        self.study = study
        self.directory = directory
        directory.make()
        with FileLock(directory.path / "locks" / "check"):  # workers that start together check once
            checked, fingerprint = _checked(study, directory)
        self.arms, self.choose_by = checked.arms, checked.choose_by
        self.queue = Queue(directory, study.name, url, self.choose_by.mode, study.sampler == "tpe")
        self.planner = Planner(study, self.arms, self.choose_by, directory, self.queue)
        self.planner.plan(fingerprint)

    def finished(self) -> bool:
        """Return whether every planned run has ended and nothing more can be planned."""
        ended = self.directory.ended()
        for arm in self.arms:
            tuning = self.directory.planned(arm.folder, "tuning")
            reporting = self.directory.planned(arm.folder, "reporting")
            if any(planned.run not in ended for planned in [*tuning, *reporting]):
                return False
            if self.study.sampler == "tpe" and arm.dimensions and len(tuning) < (self.study.trials or 0):
                return False
        return True


def _checked(study: Study, directory: StudyDirectory) -> tuple[Checked, str]:
    """Return the checked study and its fingerprint, from its file if nothing has changed since."""
    path = directory.path / "checked.json"
    fingerprint = fingerprint_of(study)
    if (before := Checked.read(path)) and before[1] == fingerprint:
        return before
    from app.lab.checking import check_study  # needs torch and Lightning

    checked = check_study(study)
    checked.write(path, fingerprint)
    return checked, fingerprint
