"""A worker of a study whose ``fit`` is :mod:`fake_fit`: ``fake_worker.py STUDY DIRECTORY [STORAGE]``."""

from __future__ import annotations

import sys
from pathlib import Path

from app.errors import Stopped
from app.lab.directory import StudyDirectory
from app.lab.laboratory import Laboratory
from app.lab.reading import read_study
from app.lab.worker import work

FAKE_FIT = Path(__file__).with_name("fake_fit.py")


def main(study: str, directory: str, storage: str | None = None) -> int:
    laboratory = Laboratory(read_study(Path(study)), StudyDirectory(Path(directory)), storage)
    try:
        work(laboratory, (sys.executable, str(FAKE_FIT)))
    except Stopped as stopped:
        return stopped.status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
