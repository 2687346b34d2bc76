"""What a study file alone does not show: the arms are built once by the program itself before anything runs."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError

from app.commands.error_messages import plain_message
from app.commands.parsing import CommandLine
from app.errors import UserError
from app.lab.arms import CURVES, NOT_WATCHED, Arm
from app.lab.checked import Checked
from app.lab.configuration import Config, cell_of, get_option, merged, set_option
from app.lab.controls import controls_of
from app.lab.study import Compared, Metric, Study, StudyError, find_file
from app.tasks.encoder import DEPTH, make_encoder
from cells import Cell, find_cell, flops, load_entry_points
from cells.registry import own_parameters
from cells.validation import closest_first
from datamodules import DataError

STEPS = 100  # sequence length for which FLOPs are matched; their ratio between cells hardly depends on it
HIDDEN_SIZE = "model.hidden_size"


def check_study(study: Study) -> Checked:
    """Build every arm once, and return what the study needs to run.

    Raises:
        StudyError: with every mistake: unknown cells, arguments and options, values that a cell refuses, a model that
            would be chosen on the test set, sizes that cannot be matched.
    """
    return _Checker(study).check()


class _Checker:
    def __init__(self, study: Study) -> None:
        self.study = study
        self.mistakes: list[str] = []
        self.choose_by = study.choose_by
        self.reference: int | None = None  # parameters or FLOPs of the first cell, if they are matched
        load_entry_points()

    def check(self) -> Checked:
        arms = []
        for compared in self.study.cells:
            try:
                arm = self.arm(compared)
            except (UserError, DataError, ValueError, TypeError) as error:
                self.mistakes.append(f"{compared.label}: {error}")
                continue
            arms.append(arm)
            if self.study.controls:
                arms += self.controls(arm, compared)
        self.compare_labels(arms)
        if self.mistakes:
            raise StudyError(self.study.path, self.mistakes)
        assert self.choose_by is not None  # every arm that was built has one
        outcome = self.study.outcome or self.choose_by
        return Checked(tuple(arms), self.choose_by, outcome)

    def arm(self, compared: Compared) -> Arm:
        base = base_configuration(self.study, compared)
        _, arguments = cell_of(base)
        cell = find_cell(str(cell_of(base)[0]))
        self.check_arguments(compared, cell, arguments)
        if self.study.match == "width" and self.study.cells.index(compared) > 0:
            self.check_width(base, compared)
        if self.study.match != "width" and self.reference is not None:
            set_option(base, HIDDEN_SIZE, self.matched_size(base, cell, arguments, compared))
        arm = Arm(
            label=compared.label,
            base=base,
            dimensions=compared.dimensions,
            published=compared.config[-1] if compared.config and not compared.dimensions else None,
        )
        config, _ = arm.at({dimension.name: dimension.values[0] for dimension in compared.dimensions})
        task, data = built(config)
        if data.chosen_on_test:
            self.mistakes.append(
                f"{compared.label}: data.protocol must be one with a validation split, because hyperparameters would "
                "be chosen on the test set; add data.protocol: validation under shared"
            )
        if self.choose_by is None:
            self.choose_by = Metric(task.monitor.removeprefix("validation/"), task.mode)
        if self.study.match != "width" and self.reference is None:
            if get_option(base, HIDDEN_SIZE) is None:
                set_option(base, HIDDEN_SIZE, task.cell.hidden_size)
            self.input_size = task.cell.input_size
            self.reference = self.size(base, cell, task.cell.hidden_size, _first(compared, arguments))
        return replace(arm, parameters=sum(parameter.numel() for parameter in task.parameters()))

    def controls(self, arm: Arm, compared: Compared) -> list[Arm]:
        cell = find_cell(arm.cell)
        tuned = frozenset(dimension.name for dimension in compared.dimensions if "." not in dimension.name)
        return [
            replace(
                arm,
                label=f"{arm.label}, {control.title}",
                parent=arm.label,
                control=control.key,
                question=control.question,
                published=None,
            )
            for control in controls_of(cell, cell_of(arm.base)[1], tuned)
        ]

    def check_arguments(self, compared: Compared, cell: type[Cell], arguments: Config) -> None:
        known = own_parameters(cell)
        tuned = [dimension for dimension in compared.dimensions if "." not in dimension.name]
        for name in [*arguments, *(dimension.name for dimension in tuned)]:
            if name not in known:
                raise UserError(
                    f"{name} is not an argument of {cell.__name__}; it has, closest first: {closest_first(name, known)}"
                )
        first = _first(compared, arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unstable drive may be part of a search
            for dimension in tuned:
                for value in dimension.values:
                    try:
                        cell(1, 2, **{**first, dimension.name: value})
                    except (ValueError, TypeError) as error:
                        self.mistakes.append(f"{compared.label}: {error}")

    def check_width(self, base: Config, compared: Compared) -> None:
        sizes = ("model.hidden_size", "model.hidden_sizes")
        reference = base_configuration(self.study, self.study.cells[0])
        tuned = any(dimension.name in sizes for cell in self.study.cells for dimension in cell.dimensions)
        for option in sizes:
            own, first = get_option(base, option), get_option(reference, option)
            if own != first and not tuned:
                self.mistakes.append(
                    f"{compared.label}: {option} must be that of the first cell for match width, got {own} and {first}"
                )

    def matched_size(self, base: Config, cell: type[Cell], arguments: Config, compared: Compared) -> int:
        """Return the hidden size whose parameters or FLOPs are closest to those of the first cell."""
        for dimension in compared.dimensions:
            if dimension.name in (HIDDEN_SIZE, *(f"model.{name}" for name in DEPTH)):
                raise UserError(f"{dimension.name} must not be tuned for match {self.study.match}")
        assert self.reference is not None
        first = _first(compared, arguments)
        return closest(self.reference, lambda hidden: self.size(base, cell, hidden, first))

    def size(self, base: Config, cell: type[Cell], hidden_size: int, arguments: Config) -> int:
        """Return parameters or FLOPs of all layers."""
        given = {name: get_option(base, f"model.{name}") for name in DEPTH}
        depth = {name: value for name, value in given.items() if value is not None}
        encoder = make_encoder(partial(cell, **arguments), self.input_size, hidden_size, **depth)
        if self.study.match == "parameters":
            return sum(parameter.numel() for parameter in encoder.parameters())
        layers = [encoder] if isinstance(encoder, Cell) else [*encoder.layers, *encoder.reverse_layers]
        return sum(sum(flops(layer, STEPS, 1)) for layer in layers)

    def compare_labels(self, arms: list[Arm]) -> None:
        folders: dict[str, str] = {}
        for arm in arms:
            if other := folders.get(arm.folder):
                self.mistakes.append(f"cells must have names that give different folders, got {other} and {arm.label}")
            folders[arm.folder] = arm.label


def base_configuration(study: Study, compared: Compared) -> Config:
    """Return the configuration of a cell without what is tuned.

    Raises:
        UserError: if a configuration file is missing or is not readable.
    """
    base: Config = {}
    for file in compared.config or study.config:
        path = find_file(file, "config")
        try:
            base = merged(base, yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
            raise UserError(f"{path} is not a readable configuration: {' '.join(str(error).split())}") from error
    limits: dict[str, Any] = {}
    if study.epochs:
        limits = {"trainer.max_epochs": study.epochs}
    if study.steps:
        limits = {"trainer.max_steps": study.steps, "trainer.max_epochs": -1}
    for option, value in {**NOT_WATCHED, **limits, **study.options, **compared.options}.items():
        set_option(base, option, value)
    before, arguments = cell_of(base)
    name = compared.cell or before
    if compared.cell is not None:  # all cells of a study state their arguments; the configuration's are of one of them
        arguments = {}
    set_option(base, "model.cell", {"class_path": name, "init_args": arguments | compared.arguments})
    callbacks = get_option(base, "trainer.callbacks") or []
    set_option(base, "trainer.callbacks", [*callbacks, copy.deepcopy(CURVES)])
    return base


def built(config: Config) -> tuple[Any, Any]:
    """Return the task and the data module of a configuration, built by the program's own command line.

    Raises:
        UserError: for an option, an argument or a value that it refuses.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "arm.yaml")
        path.write_text(yaml.safe_dump({"seed_everything": 0, **config}), encoding="utf-8")
        state = torch.random.get_rng_state()
        cli = parsed(["--config", str(path)])
        torch.random.set_rng_state(state)
    os.environ.pop("PL_GLOBAL_SEED", None)  # set while building; runs have seeds of their own
    return cli.model, cli.datamodule


def parsed(options: list[str]) -> Any:
    """Return the command line built from options, with its messages in the words of the program."""
    try:
        return CommandLine("validate", options)
    except ArgumentError as error:
        raise UserError(plain_message(str(error))) from error


def closest(wanted: int, size: Callable[[int], int]) -> int:
    """Return the hidden size, at least 1, whose ``size``, which grows with it, is closest to ``wanted``."""
    high = 1
    while size(high) < wanted:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < wanted else (low, middle)
    return min((hidden for hidden in (low, high) if hidden), key=lambda hidden: abs(size(hidden) - wanted))


def _first(compared: Compared, arguments: Config) -> Config:
    """Return the cell's arguments at the first value of what is tuned."""
    tuned = {dimension.name: dimension.values[0] for dimension in compared.dimensions if "." not in dimension.name}
    return {**arguments, **tuned}
