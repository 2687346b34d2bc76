"""Reading study files, with every mistake of a file reported at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from app.errors import UserError
from app.lab.space import Dimension, is_space
from app.lab.study import Compared, Match, Metric, Mode, Sampler, Study, StudyError, Target, mode_of


def read_study(path: Path) -> Study:
    """Return the study in a file.

    Raises:
        StudyError: with every mistake that the file alone shows.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise UserError(f"{path} must hold a mapping with the keys {', '.join(KEYS)}")
    reader = _Reader(given)
    study = reader.study(path)
    if reader.mistakes:
        raise StudyError(path, reader.mistakes)
    return study


KEYS = (
    "name", "config", "cells", "shared", "budget", "sampler", "seeds", "match", "controls", "choose_by", "outcome",
    "targets", "pruning",
)  # fmt: skip


class _Reader:
    """Reads a study file and collects its mistakes, so that all of them are reported at once."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.mistakes: list[str] = []

    def study(self, path: Path) -> Study:
        given = self.given
        self.known(given, KEYS, "")
        shared, options = self.space_and_constants(given.get("shared") or {}, "shared", dotted=True)
        budget = self.mapping("budget", ("trials", "epochs", "steps"))
        trials, epochs, steps = (
            self.positive(budget.get(key), f"budget.{key}") for key in ("trials", "epochs", "steps")
        )
        if epochs and steps:
            self.mistakes.append("budget must have epochs or steps, got both")
        sampler = self.one_of("sampler", get_args(Sampler), "random")
        cells = self.cells(shared)
        seeds = self.mapping("seeds", ("tuning", "reporting"))
        tunes = any(cell.dimensions for cell in cells)
        tuning = self.seeds(seeds, "tuning") if tunes or seeds["tuning"] else ()
        reporting = self.seeds(seeds, "reporting")
        if both := sorted(set(tuning) & set(reporting)):
            self.mistakes.append(
                f"seeds.tuning and seeds.reporting must not overlap, got {both} in both: a seed that chose the "
                "hyperparameters gives optimistic results"
            )
        if tunes:
            self.check_sampler(sampler, cells, trials, tuning)
        targets = tuple(target for item in self.listed("targets") if (target := self.target(item)))
        study = Study(
            name=str(given.get("name") or path.stem),
            path=path,
            config=self.files(given.get("config"), "config"),
            cells=cells,
            options=options,
            trials=trials,
            epochs=epochs,
            steps=steps,
            sampler=sampler,  # type: ignore[arg-type]  # one_of saw to it
            tuning_seeds=tuning,
            reporting_seeds=reporting,
            match=self.one_of("match", get_args(Match), "width"),  # type: ignore[arg-type]
            controls=self.one_of("controls", ("auto", "none"), "none") == "auto",
            choose_by=self.metric("choose_by"),
            outcome=self.metric("outcome"),
            targets=targets,
            pruning=bool(given.get("pruning", False)),
        )
        if not study.config and any(not cell.config for cell in cells):
            self.mistakes.append("config must name the configuration to start from, such as configs/quickstart.yaml")
        return study

    def cells(self, shared: list[Dimension]) -> tuple[Compared, ...]:
        given = self.given.get("cells")
        if not isinstance(given, dict) or not given:
            self.mistakes.append(f"cells must map names of cells to their hyperparameters, got {given!r}")
            return ()
        found = []
        for label, entry in given.items():
            entry = {} if entry is None else entry
            if not isinstance(entry, dict):
                self.mistakes.append(f"cells.{label} must be a mapping of hyperparameters, got {entry!r}")
                continue
            config = self.files(entry.get("config"), f"cells.{label}.config")
            cell = entry.get("cell", None if config else str(label))
            rest = {name: value for name, value in entry.items() if name not in ("config", "cell")}
            own, constants = self.space_and_constants(rest, f"cells.{label}", dotted=False)
            replaced = {dimension.name for dimension in own} | constants.keys()
            dimensions = [dimension for dimension in shared if dimension.name not in replaced] + own
            arguments = {name: value for name, value in constants.items() if "." not in name}
            options = {name: value for name, value in constants.items() if "." in name}
            found.append(Compared(str(label), config, cell, arguments, options, tuple(dimensions)))
        return tuple(found)

    def space_and_constants(self, given: Any, where: str, dotted: bool) -> tuple[list[Dimension], dict[str, Any]]:
        if not isinstance(given, dict):
            self.mistakes.append(f"{where} must be a mapping, got {given!r}")
            return [], {}
        dimensions, constants = [], {}
        for name, value in given.items():
            if dotted and isinstance(value, dict) and not is_space(value):
                self.mistakes.append(f"{where}.{name} must be a value or a search space, got {value!r}")
            elif is_space(value):
                self.attempt(lambda name=name, value=value: dimensions.append(Dimension.read(name, value)), where)  # type: ignore[misc]
            else:
                constants[str(name)] = value
        return dimensions, constants

    def check_sampler(
        self, sampler: str, cells: tuple[Compared, ...], trials: int | None, tuning: tuple[int, ...]
    ) -> None:
        if sampler == "grid":
            for cell in cells:
                for dimension in cell.dimensions:
                    if dimension.kind != "choice":
                        self.mistakes.append(
                            f"{dimension.name} of {cell.label} must be a choice for sampler grid, got {dimension.kind}"
                        )
            if trials is not None:
                self.mistakes.append("budget.trials must be left out for sampler grid: every point is run")
        elif trials is None:
            self.mistakes.append(f"budget.trials must say how many points sampler {sampler} tries for each cell")
        if sampler == "tpe" and len(tuning) > 1:
            self.mistakes.append(f"seeds.tuning must be one seed for sampler tpe, got {list(tuning)}")

    def target(self, item: Any) -> Target | None:
        if not isinstance(item, dict) or not {"metric", "value"} <= item.keys() <= {"metric", "value", "mode"}:
            self.mistakes.append(f"targets must hold entries like {{metric: accuracy, value: 0.9}}, got {item!r}")
            return None
        metric = self.read_metric({key: item[key] for key in item if key != "value"}, "targets")
        if metric is None or not isinstance(item["value"], (int, float)) or isinstance(item["value"], bool):
            self.mistakes.append(f"targets.value must be a number, got {item['value']!r}")
            return None
        return Target(metric, float(item["value"]))

    def metric(self, key: str) -> Metric | None:
        given = self.given.get(key)
        return None if given is None else self.read_metric(given, key)

    def read_metric(self, given: Any, where: str) -> Metric | None:
        given = {"metric": given} if isinstance(given, str) else given
        if not isinstance(given, dict) or not isinstance(given.get("metric"), str):
            self.mistakes.append(f"{where} must be a metric such as accuracy, got {given!r}")
            return None
        self.known(given, ("metric", "mode"), f"{where}.")
        name = given["metric"].removeprefix("validation/").removeprefix("test/")
        mode = given.get("mode", mode_of(name))
        if mode not in get_args(Mode):
            self.mistakes.append(f"{where}.mode must be max or min, got {mode!r}")
            return None
        return Metric(name, mode)

    def seeds(self, seeds: Mapping[str, Any], key: str) -> tuple[int, ...]:
        given = seeds.get(key)
        ok = isinstance(given, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in given)
        if not ok or not given or len(set(given)) < len(given) or min(given) < 0:
            self.mistakes.append(f"seeds.{key} must be a list of different integers from 0 on, got {given!r}")
            return ()
        return tuple(given)

    def positive(self, value: Any, name: str) -> int | None:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            self.mistakes.append(f"{name} must be an integer of at least 1, got {value!r}")
            return None
        return value

    def mapping(self, key: str, known: tuple[str, ...]) -> dict[str, Any]:
        given = self.given.get(key)
        if given is None:
            given = {}
        if not isinstance(given, dict):
            self.mistakes.append(f"{key} must be a mapping with {', '.join(known)}, got {given!r}")
            given = {}
        self.known(given, known, f"{key}.")
        return {name: given.get(name) for name in known}

    def listed(self, key: str) -> list[Any]:
        given = self.given.get(key) or []
        if not isinstance(given, list):
            self.mistakes.append(f"{key} must be a list, got {given!r}")
            return []
        return given

    def files(self, given: Any, where: str) -> tuple[str, ...]:
        listed = [given] if isinstance(given, str) else given or []
        if not isinstance(listed, list) or not all(isinstance(file, str) for file in listed):
            self.mistakes.append(f"{where} must be a file or a list of files, got {given!r}")
            return ()
        return tuple(listed)

    def one_of(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.given.get(key, default)
        if value is None and "none" in choices:
            value = "none"
        if value not in choices:
            self.mistakes.append(f"{key} must be one of {', '.join(choices)}, got {value!r}")
            return default
        return str(value)

    def known(self, given: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
        for name in given.keys() - set(known):
            from cells.validation import closest_first  # needs torch, so only for a message

            self.mistakes.append(
                f"{prefix}{name} is not known; accepted, closest first: {closest_first(str(name), known)}"
            )

    def attempt(self, read: Callable[[], Any], where: str) -> None:
        try:
            read()
        except ValueError as error:
            self.mistakes.append(f"{where}: {error}")
