"""Arms: what a study compares, cells and their controls, each ready to give the configuration of any point."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app.lab.configuration import Config, cell_of, set_option
from app.lab.controls import control_by_key, with_defaults
from app.lab.space import Dimension, Value

CURVES = {"class_path": "app.Curves"}
# The page needs none of what these options produce, and measuring it costs time.
NOT_WATCHED = {"observe": False, "probe_every": 0, "trainer.enable_progress_bar": False}


@dataclass(frozen=True)
class Arm:
    """A cell, or a control of a cell, with everything that is fixed.

    Attributes:
        label: Its name in tables.
        base: The configuration without what is tuned and without the seed.
        dimensions: What is tuned; a control is tuned with its parent's points.
        parent: Label of the cell whose control it is.
        control: Key of the control.
        question: The simpler explanation that the control tests.
        parameters: Number of parameters of the task.
        published: Configuration file of the published row that this arm repeats.
    """

    label: str
    base: Config
    dimensions: tuple[Dimension, ...]
    parent: str | None = None
    control: str | None = None
    question: str | None = None
    parameters: int | None = None
    published: str | None = None

    @property
    def folder(self) -> str:
        """The label as a name of a folder."""
        return re.sub(r"\W+", "_", self.label)

    @property
    def cell(self) -> str:
        """Name of the cell's class."""
        return str(cell_of(self.base)[0])

    @property
    def tuned(self) -> tuple[Dimension, ...]:
        """The dimensions that the arm itself has: a control lacks those that it fixes."""
        removed = control_by_key(self.control).removes if self.control else frozenset()
        return tuple(dimension for dimension in self.dimensions if dimension.name not in removed)

    def at(self, drawn: Mapping[str, Value]) -> tuple[Config, dict[str, Value]]:
        """Return the configuration at a point, without a seed, and the values of what is tuned there.

        Args:
            drawn: The point: a value for each dimension.
        """
        config = copy.deepcopy(self.base)
        for name, value in drawn.items():
            set_option(config, name if "." in name else f"model.cell.{name}", value)
        values = dict(drawn)
        if self.control:
            from cells.registry import find_cell  # needs torch

            control = control_by_key(self.control)
            cell = find_cell(self.cell)
            changed = control.change(cell, with_defaults(cell, cell_of(config)[1]))
            for name, value in changed.items():
                set_option(config, f"model.cell.{name}", value)
            kept = {name: changed.get(name, value) for name, value in drawn.items() if name not in control.removes}
            derived = {"forget_bias": changed["forget_bias"]} if "forget_bias" in changed else {}
            values = kept | derived
        return config, values

    def to_json(self) -> dict[str, Any]:
        """Return the arm as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Arm:
        """Return the arm that :meth:`to_json` described."""
        dimensions = tuple(Dimension(item["name"], item["kind"], tuple(item["values"])) for item in data["dimensions"])
        return cls(**{**data, "dimensions": dimensions})


def with_seed(config: Mapping[str, Any], seed: int) -> Config:
    """Return the configuration of one run."""
    return {**copy.deepcopy(dict(config)), "seed_everything": seed}
