"""A queue in PostgreSQL: POSTGRESQL_URL names an empty database, as ``postgresql+psycopg://user@host/name``."""

from __future__ import annotations

import os
from collections import Counter

import pytest

URL = os.environ.get("POSTGRESQL_URL")


@pytest.mark.slow
@pytest.mark.skipif(URL is None, reason="POSTGRESQL_URL names no database")
def test_two_machines_run_nothing_twice(write_study, start_worker, tmp_path):
    study = write_study(name=f"study{os.getpid()}", cells={"LSTM": {}}, budget={"trials": 200, "epochs": 4})
    workers = []
    for number in range(2):
        home = tmp_path / f"machine{number}"
        home.mkdir()
        environment = {"HOME": str(home), "TMPDIR": str(home), "EPOCH_SECONDS": "0.01"}
        workers.append(start_worker(study, URL, environment=environment))
    assert [worker.wait(290) for worker in workers] == [0, 0]
    counts = Counter(line.split()[0] for line in (tmp_path / "times").read_text().splitlines())
    assert len(counts) == 200 + 3
    assert set(counts.values()) == {1}
    assert len(list((tmp_path / "study/outcomes").iterdir())) == 203
