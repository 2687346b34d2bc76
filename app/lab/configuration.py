"""Configurations of ``fit`` as plain data: merging files, setting options, naming the result by its contents."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]
HASH_LENGTH = 12  # 48 bits: a collision among a million runs has a probability of 0.002


def merged(first: Config, second: Mapping[str, Any]) -> Config:
    """Return ``first`` updated by ``second`` at every depth; another class replaces all arguments of the first."""
    result = dict(first)
    for name, value in second.items():
        before = result.get(name)
        if not isinstance(value, Mapping) or not isinstance(before, Mapping):
            result[name] = copy.deepcopy(value)
        elif "class_path" in value and value["class_path"] != before.get("class_path"):
            result[name] = copy.deepcopy(dict(value))
        else:
            result[name] = merged(dict(before), value)
    return result


def set_option(config: Config, option: str, value: Any) -> None:
    """Set an option as on the command line: ``model.optimizer.lr`` is ``model.init_args.optimizer.init_args.lr``."""
    inside: Any = config
    *path, last = option.split(".")
    for name in path:
        inside = _arguments(inside)
        if isinstance(inside.get(name), str):
            inside[name] = {"class_path": inside[name]}
        inside = inside.setdefault(name, {})
    _arguments(inside)[last] = copy.deepcopy(value)


def get_option(config: Mapping[str, Any], option: str) -> Any:
    """Return the value of an option as :func:`set_option` names it, or None."""
    inside: Any = config
    for name in option.split("."):
        if not isinstance(inside, Mapping):
            return None
        inside = (inside.get("init_args") or {}) if "class_path" in inside else inside
        inside = inside.get(name)
    return inside


def _arguments(inside: Config) -> Config:
    arguments: Config = inside.setdefault("init_args", {}) if "class_path" in inside else inside
    return arguments


def cell_of(config: Mapping[str, Any]) -> tuple[str | None, Config]:
    """Return the class name and the arguments of the cell that a configuration has; None if it has none."""
    cell = get_option(config, "model.cell")
    if isinstance(cell, Mapping):
        return cell.get("class_path"), dict(cell.get("init_args") or {})
    return cell, {}


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return a short hash of the contents, which does not depend on the order of the keys."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def run_name(config: Mapping[str, Any]) -> str:
    """Return the name of the run directory of a configuration: cell, seed and hash."""
    name, _ = cell_of(config)
    return f"{(name or 'run').rpartition('.')[2]}-seed{config['seed_everything']}-{fingerprint(config)}"
