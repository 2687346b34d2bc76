"""Mistakes of the user, told in one or two sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from cells import find_cell
from cells.registry import own_parameters


class UserError(Exception):
    """A mistake that the user can mend: the sentence says the value and what is accepted."""


def closest_first(name: str, known: Iterable[str]) -> str:
    """``known`` as a text, the names that resemble ``name`` first."""
    names = sorted(set(known))
    by_lower = {other.lower(): other for other in names}
    close = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    return ", ".join(close + [other for other in names if other not in close])


def plain_sentence(message: str) -> str:
    """What jsonargparse's nested report of a bad argument says, as a sentence with the option, the value, the choice.

    Reports whose form is not known come back unchanged but for their white space.
    """
    option = "--" + ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        return _unknown_option(option, unknown[1], message)
    if path := re.search(r"Expected a dot import path string: (\S+)", message):
        return _unknown_class(option, path[1])
    if missing := re.search(r"the following arguments are required: (.*)", message):
        names = ", ".join("--" + name.strip().partition(".")[2] for name in missing[1].split(","))
        return (
            f"{names} must be given, on the command line or by --config FILE (the quick start: configs/quickstart.yaml)"
        )
    value = re.search(r"Got value: (.*?)(?:\. Got value|$)", message, re.MULTILINE)
    value = value or re.search(r"Given value: (.*)", message)
    expected = list(
        dict.fromkeys(_in_words(kind) for kind in re.findall(r"Expected an? ((?:<class|typing).*)", message))
    )
    if "class_path" in message and "nothing" in expected:
        expected.remove("nothing")  # from "model: Task | None", which hides the argument that is wrong
    if value and expected:
        return f"{option} is {value[1]!r}; {' or '.join(expected)} is expected"
    if attribute := re.search(r"module '(\S+)' has no attribute '(\S+?)'", message):
        module, name = attribute.groups()
        return f"{option} is '{module}.{name}', but the module {module!r} has no class {name!r}"
    return " ".join(message.split())


def _in_words(kind: str) -> str:
    kind = kind.partition(". Got value")[0]
    if kind == "<class 'NoneType'>":
        return "nothing"
    if simple := re.fullmatch(r"<class '(\w+)'>", kind):
        return {"int": "an integer", "float": "a number", "str": "a text", "bool": "true or false"}.get(
            simple[1], f"a {simple[1]}"
        )
    if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        return f"one of {literal[1]}"
    return kind


def _unknown_option(option: str, name: str, message: str) -> str:
    classes = re.findall(r"class_path(?:=| )'([\w.]+)'", message)
    owner = classes[-1] if classes else ""
    module, _, class_name = owner.rpartition(".")
    known = list(own_parameters(getattr(import_module(module), class_name))) if module else []
    return f"{option}.{name} is not known: {class_name or 'the program'} has no argument {name!r}" + (
        f"; it has, closest first: {closest_first(name, known)}" if known else ""
    )


def _unknown_class(option: str, name: str) -> str:
    argument = option.rpartition(".")[2].lstrip("-")
    if argument == "cell":
        try:
            find_cell(name)
        except ValueError as error:
            return str(error)
    known = [cls.__name__ for cls in _all_subclasses(_base_class(argument))]
    return f"{option} is {name!r}, which is not known; known, closest first: {closest_first(name, known)}"


def _base_class(argument: str) -> Any:
    from torch.optim import Optimizer

    from app.tasks import Task
    from datamodules import DataModule

    return {"model": Task, "data": DataModule, "optimizer": Optimizer}.get(argument, object)


def _all_subclasses(cls: Any) -> list[type]:
    found = [] if cls is object else list(cls.__subclasses__())
    return found + [deeper for subclass in found for deeper in _all_subclasses(subclass)]
