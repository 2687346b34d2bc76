"""Classes that options and configuration files name, and the sizes that data modules pass to tasks."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from app.errors import UserError
from app.runs.configuration import CONFIG_FLAGS
from app.tasks import Task
from datamodules import DataModule


def import_named_classes(options: Sequence[str]) -> None:
    """Import the modules of the tasks, data modules and cells that the options name by dotted paths.

    The parser must know the sizes that they declare before it parses. It reports a module that does not exist.

    Raises:
        UserError: if a module exists but cannot be imported; the parser would only say that there is no such class.
    """
    for path in _named_paths(options):
        module = path.rpartition(".")[0]
        if re.fullmatch(r"[\w.]*\.", path) or path.startswith("."):
            raise UserError(f"a class must be given by its name or its path package.module.Class, got {path!r}")
        if re.fullmatch(r"\w+(\.\w+)*", module):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name and not f"{module}.".startswith(f"{error.name}."):
                    raise UserError(f"{module} cannot be imported: {error}") from error
            except (Exception, SystemExit) as error:  # code of the user may fail in any way
                raise UserError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error


def linked_sizes() -> list[str]:
    """Return the sizes that an imported data module provides and an imported task requires."""
    provided = {size for cls in subclasses(DataModule) for size in cls.provided_sizes}
    required = {size for cls in subclasses(Task) for size in cls.required_sizes}
    return sorted(provided & required)


def check_implemented(task: type[Task], data: type[DataModule]) -> None:
    """Check that the classes are more than base classes.

    Raises:
        UserError: with the known subclasses.
    """
    tasks = [found for found in subclasses(Task) if found.shared_step is not Task.shared_step]
    if task.shared_step is Task.shared_step:
        raise UserError(f"--model must be one of {_names(tasks)}, or a task of your own, got {task.__name__}")
    if data is DataModule:
        raise UserError(f"--data must be one of {_names(subclasses(data))}, or one of your own, got {data.__name__}")


def _names(classes: Iterable[type]) -> str:
    return ", ".join(sorted(found.__name__ for found in classes))


def check_sizes(task: type[Task], data: type[DataModule]) -> None:
    """Check that the data provide every size that the task requires.

    Raises:
        UserError: with the sizes that are missing.
    """
    if missing := [size for size in task.required_sizes if size not in data.provided_sizes]:
        raise UserError(
            f"{task.__name__} needs {' and '.join(missing)} of the data, but {data.__name__} provides "
            f"{' and '.join(data.provided_sizes)}. Choose another --model or --data."
        )


def class_at(path: str) -> Any:
    """Return the class with this dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def subclasses(cls: type) -> Iterator[Any]:
    """Yield every imported subclass of ``cls``, however deep."""
    direct: list[type] = cls.__subclasses__()
    for subclass in direct:
        yield subclass
        yield from subclasses(subclass)


def _named_paths(options: Sequence[str]) -> Iterator[str]:
    for option, following in zip(options, [*options[1:], ""], strict=False):
        name, equals, value = option.partition("=")
        value = value if equals else following
        if name in CONFIG_FLAGS and Path(value).is_file():
            content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            for key in ("model", "data") if isinstance(content, dict) else ():
                yield from _class_paths(content.get(key))
        elif name in ("--model", "--data", "--model.class_path", "--data.class_path", "--model.cell"):
            yield value


def _class_paths(entry: Any) -> Iterator[str]:
    """Yield the class paths in an entry of a configuration file, its own first."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        yield str(entry.get("class_path", ""))
        arguments = entry.get("init_args")
        for argument in arguments.values() if isinstance(arguments, dict) else ():
            if isinstance(argument, dict):
                yield from _class_paths(argument)
