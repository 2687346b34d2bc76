"""The public interface as lists of lines: names, keys of state dictionaries, and command-line options.

``PYTHONPATH=.:tests python -m helpers.freeze`` writes the lists to tests/project/frozen/. test_frozen.py compares them
with the program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

import app.tasks
import cells
import datamodules
from app.commands.main import main
from cells.registry import own_parameters
from helpers.cell_builders import BUILT_IN
from helpers.paths import ROOT

FROZEN = ROOT / "tests" / "project" / "frozen"
PACKAGES = ("cells", "cells.drives", "datamodules", "app", "app.tasks")
SIZES = {  # what a task takes from the data
    "input_size": 3,
    "num_classes": 5,
    "target_size": 2,
    "vocabulary_size": 7,
}
SMALL = {  # other arguments of tasks, to hold one value of each kind
    "hidden_size": 4,
    "embedding_size": 6,
    "hidden_sizes": (4, 6),
}


def public_names() -> list[str]:
    """Return what the packages export, as dotted paths."""
    return sorted(f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__)


def state_dict_keys() -> list[str]:
    """Return class, key and shape of each entry in the state dictionaries of cells and of tasks with an LSTM."""
    modules: dict[str, nn.Module] = {}
    for name, cell in BUILT_IN.items():
        modules[name] = cell(3, 4)
        if "learn" in own_parameters(cell):
            modules[f"{name}(learn=unit)"] = cell(3, 4, learn="unit")
    for name, task in tasks().items():
        accepted = set(arguments(task))
        modules[name] = task(cells.LSTM, **{key: value for key, value in (SIZES | SMALL).items() if key in accepted})
    return sorted(
        f"{name} {key} {'x'.join(map(str, entry.shape)) or 'scalar'}"
        for name, module in modules.items()
        for key, entry in module.state_dict().items()
    )


def options() -> list[str]:
    """Return the options of each command, and the arguments of cells, tasks and data modules, which are options too.

    The options of Lightning's Trainer belong to Lightning and are left out.
    """
    lines = [f"{command} {option}" for command in commands() for option in options_of(command)]
    for name, cell in BUILT_IN.items():
        lines += [f"{name} {argument}" for argument in own_parameters(cell)]
    for classes in (tasks(), data_modules()):
        for name, cls in classes.items():
            lines += [f"{name} {argument}" for argument in arguments(cls)]
    return sorted(set(lines))


LISTS: dict[str, Callable[[], list[str]]] = {
    "public_names.txt": public_names,
    "state_dict_keys.txt": state_dict_keys,
    "options.txt": options,
}


def tasks() -> dict[str, type[app.tasks.Task]]:
    """Return the tasks that ``app.tasks`` exports, without their base class."""
    exported = {name: getattr(app.tasks, name) for name in app.tasks.__all__}
    return {
        name: cls
        for name, cls in exported.items()
        if isinstance(cls, type) and issubclass(cls, app.tasks.Task) and cls is not app.tasks.Task
    }


def data_modules() -> dict[str, type[datamodules.DataModule]]:
    """Return the data modules that ``datamodules`` exports and that can be built."""
    exported = {name: getattr(datamodules, name) for name in datamodules.__all__}
    return {
        name: cls
        for name, cls in exported.items()
        if isinstance(cls, type) and issubclass(cls, datamodules.DataModule) and not inspect.isabstract(cls)
    }


def arguments(cls: type, prefix: str = "") -> Iterator[str]:
    """Yield the arguments of a class and of the bases that its ``**kwargs`` go to.

    The arguments of a group, which is a dataclass, follow it as ``group.argument``.
    """
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        types = typing.get_type_hints(base.__init__)
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # without self
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            yield prefix + parameter.name
            for group in [types.get(parameter.name), *typing.get_args(types.get(parameter.name))]:
                if isinstance(group, type) and dataclasses.is_dataclass(group):
                    yield from arguments(group, f"{prefix}{parameter.name}.")
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break


def commands() -> list[str]:
    """Return the commands that ``python -m app --help`` lists."""
    return re.findall(r"^  ([a-z]\w*)  ", help_text("--help"), re.MULTILINE)


def options_of(command: str) -> list[str]:
    """Return the options that ``--help`` lists for a command, without those of the Trainer."""
    found = re.findall(r"^ +(?:-\w(?: \w+)?, )?--(\w+(?:\.\w+)*)", help_text(command, "--help"), re.MULTILINE)
    return sorted({f"--{option}" for option in found if not option.startswith("trainer")})


def help_text(*arguments: str) -> str:
    output: Any = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main(arguments)
    return output.getvalue()


def write_lists() -> None:
    """Write the lists as the program is now."""
    FROZEN.mkdir(exist_ok=True)
    for name, lines in LISTS.items():
        (FROZEN / name).write_text("".join(f"{line}\n" for line in lines()))


if __name__ == "__main__":
    write_lists()
