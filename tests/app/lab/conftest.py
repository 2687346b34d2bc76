"""Small studies whose runs are trained by a fake ``fit``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.paths import QUICKSTART, ROOT

from app.lab.directory import StudyDirectory
from app.lab.laboratory import Laboratory
from app.lab.reading import read_study

STUDY: dict[str, Any] = {
    "config": QUICKSTART,
    "cells": {
        "LSTM": {},
        "MomentumLSTM": {"momentum": {"uniform": [0.0, 0.9]}, "step_size": {"log_uniform": [0.2, 2.0]}},
    },
    "shared": {"model.optimizer.lr": {"log_uniform": [0.001, 0.1]}, "model.hidden_size": 4},
    "budget": {"trials": 3, "epochs": 4},
    "seeds": {"tuning": [100], "reporting": [0, 1, 2]},
    "outcome": "accuracy",
    "targets": [{"metric": "loss", "value": 0.2}],
}


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Write a study file that differs from :data:`STUDY` in the given keys."""

    def write(name: str = "small", **changed: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(STUDY | changed, sort_keys=False))
        return path

    return write


@pytest.fixture
def open_study(tmp_path: Path) -> Callable[[Path], Laboratory]:
    """Open a study in ``tmp_path / 'study'``."""
    return lambda path: Laboratory(read_study(path), StudyDirectory(tmp_path / "study"))


@pytest.fixture
def start_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a worker of a study in a separate process; its runs are recorded in ``tmp_path / 'times'``."""

    def start(
        study: Path, *storage: str, environment: Mapping[str, str] = {}, directory: str = "study"
    ) -> subprocess.Popen[bytes]:
        Laboratory(read_study(study), StudyDirectory(tmp_path / directory))  # checked here, where torch is loaded
        script = str(Path(__file__).with_name("fake_worker.py"))
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        variables = {**os.environ, "TIMES": str(tmp_path / "times"), "PYTHONPATH": paths, **environment}
        return subprocess.Popen(
            [sys.executable, script, str(study), str(tmp_path / directory), *storage], env=variables
        )

    return start
