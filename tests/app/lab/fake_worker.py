"""A worker of a study that runs :mod:`fake_fit` instead of ``fit``: ``fake_worker.py STUDY DIRECTORY [STORAGE]``."""

from __future__ import annotations

import sys
from pathlib import Path

from app.errors import Stopped
from app.lab.directory import StudyDirectory
from app.lab.laboratory import Laboratory
from app.lab.reading import read_study
from app.lab.worker import work

sys.path.insert(0, str(Path(__file__).parent))


import fake_fit


def main(study: str, directory: str, storage: str | None = None) -> int:
    laboratory = Laboratory(read_study(Path(study)), StudyDirectory(Path(directory)), storage)
    try:
        work(laboratory, fake_fit.main)
    except Stopped as stopped:
        return stopped.status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
