"""A checked study: its arms and metrics, kept in ``STUDY/checked.json`` so that workers and reports need not check."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.lab.arms import Arm
from app.lab.directory import write_text
from app.lab.study import Metric, Study, find_file


@dataclass(frozen=True)
class Checked:
    """A study that can run.

    Attributes:
        arms: Cells and their controls.
        choose_by: Validation metric that chooses hyperparameters.
        outcome: Test metric that is compared.
    """

    arms: tuple[Arm, ...]
    choose_by: Metric
    outcome: Metric

    def write(self, path: Path, fingerprint: str) -> None:
        """Write it to a file."""
        data = {
            "fingerprint": fingerprint,
            "arms": [arm.to_json() for arm in self.arms],
            "choose_by": asdict(self.choose_by),
            "outcome": asdict(self.outcome),
        }
        write_text(path, json.dumps(data, indent=1))

    @classmethod
    def read(cls, path: Path) -> tuple[Checked, str] | None:
        """Return what a file holds, and the fingerprint of the study then; None if there is no such file."""
        if not path.exists():
            return None
        data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        arms = tuple(map(Arm.from_json, data["arms"]))
        return cls(arms, Metric(**data["choose_by"]), Metric(**data["outcome"])), data["fingerprint"]


def fingerprint_of(study: Study) -> str:
    """Return a hash of everything that checking a study reads: its file, its configurations, the program's version."""
    configs = dict.fromkeys([*study.config, *(name for cell in study.cells for name in cell.config)])
    paths = [study.path, *(find_file(name, "config") for name in configs)]
    try:
        program = version("momentum-rnn")
    except PackageNotFoundError:
        program = "not installed"
    digest = hashlib.sha256(program.encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
