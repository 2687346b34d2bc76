"""The parser's nested reports as messages of one line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from app.commands.class_lookup import class_at, subclasses
from cells import Cell, find_cell
from cells.registry import own_parameters
from cells.validation import closest_first

CONFIGURED = ", on the command line or by --config FILE (such as configs/quickstart.yaml)"
RESTRICTED = r"Not of type \w+: (?:(\S+) )?does not conform to restriction v(\S+)"


def plain_message(message: str) -> str:
    """Return jsonargparse's report of a bad option as one line with the option, what it accepts and what it got.

    Reports of an unknown form are returned with their white space reduced.
    """
    option = "--" + ".".join(re.findall(r'Parser key "([^"]+)"', message))
    given = re.search(r"Given value: NestedArg\(key='[^']+', val='(.*)'\)", message) or re.search(
        r"Got value: (.*?)(?:\. Got value|$)|Given value: (?P<given>.*)", message, re.MULTILINE
    )
    value = next((group for group in given.groups() if group is not None), "") if given else ""
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        return _unknown_argument(option, unknown[1], message)
    if unknown := re.search(r"unrecognized arguments: (\S+)|does not accept option '(\S+)'", message):
        return _unknown_argument("", (unknown[1] or unknown[2]).lstrip("-").partition("=")[0], message)
    if missing := re.search(r"the following arguments are required: ([\w., -]*\w)", message):
        place = "--" if option == "--" else f"{option}."
        required = missing[1].partition(". Got value")[0].split(",")
        names = " and ".join(f"{place}{name.strip().rpartition('.')[2]}" for name in required)
        configurable = re.search("--data|--model", names)
        return f"{names} must be given" + (CONFIGURED if configurable else "")
    if bounded := re.search(RESTRICTED, message):
        bound = re.sub(r"^>=", "at least ", bounded[2]).replace(">", "above ")
        return f"{option} must be {bound}, got {bounded[1] or value}"
    if option == "--" and (refused := re.search(r"Problem with given class_path '([\w.]+)':\n\s+(.*)", message)):
        return f"{refused[1].rpartition('.')[2]} cannot be used: {refused[2]}"
    if choice := re.search(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message):
        return f"{choice[1]} must be one of {choice[3]}, got {choice[2]}"
    if option.endswith(".cell") and (refusal := _not_a_cell(value)):
        return refusal
    known = [cls.__name__ for cls in _subclasses_for(option)]
    # the parser also expects a path where an argument, such as lr, may be a Tensor
    if "Expected a dot import path string" in message and (known or "NestedArg" not in message):
        choices = f". Known, closest first: {closest_first(value, known)}" if known else ""
        return f"{option}: there is no class {value!r}{choices}"
    expected = list(
        dict.fromkeys(_in_words(kind) for kind in re.findall(r"Expected an? ((?:<class|typing).*)", message))
    )
    if "class_path" in message and "empty" in expected:
        expected.remove("empty")  # from "model: Task | None", which hides the argument that is wrong
    refused = re.search(r"Problem with given class_path '([^']+)':\n\s+(.*?)\n\s+- Expected", message, re.DOTALL)
    if refused and value.startswith("Namespace(class_path"):  # all arguments are valid, but the constructor failed
        return f"{refused[1].rpartition('.')[2]}: {' '.join(refused[2].split())}"
    if given and expected:
        return f"{option} must be {' or '.join(expected)}, got {value!r}"
    if inner := re.search(r"Errors:\n\s+- (.*?)\n\s+- Expected a <class 'NoneType'>", message, re.DOTALL):
        message = inner[1]  # raised by a constructor
    return " ".join(message.split())


def dropped_arguments(written: Mapping[str, Any], used: Mapping[str, Any]) -> list[str]:
    """Return the arguments of a configuration file that are not used, because a later option changed their class.

    jsonargparse keeps the arguments that the new class accepts, and silently drops the others.

    Args:
        written: The contents of the file.
        used: The final configuration.
    """
    dropped = []
    for name, value in written.items():
        inside = used.get(name)
        if not isinstance(value, Mapping) or not isinstance(inside, Mapping):
            continue
        lost = set(value.get("init_args") or ()) - set(inside.get("init_args") or ())
        if lost and "class_path" in inside:
            class_name = inside["class_path"].rpartition(".")[2]
            dropped.append(f"{', '.join(sorted(lost))} (not an argument of {class_name})")
        dropped += dropped_arguments(value, inside)
    return dropped


def _in_words(kind: str) -> str:
    kind = kind.partition(". Got value")[0]
    if kind == "<class 'NoneType'>":
        return "empty"
    if simple := re.fullmatch(r"<class '(\w+)'>", kind):
        return {"int": "an integer", "float": "a number", "str": "a text", "bool": "true or false"}.get(
            simple[1], f"a {simple[1]}"
        )
    if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        return f"one of {literal[1]}"
    return kind


def _unknown_argument(option: str, name: str, message: str) -> str:
    classes = re.findall(r"class_path(?:=| )'([\w.]+)'", message)
    if name.startswith("trainer."):
        classes = ["pytorch_lightning.Trainer"]
        option, name = "--trainer", name.partition(".")[2]
    if not classes:
        return f"--{name} is unknown. --help lists every option."
    cls = class_at(classes[-1])
    known = own_parameters(cls) if issubclass(cls, Cell) else inspect.signature(cls).parameters
    return (
        f"{option}.{name} is unknown: {cls.__name__} has no argument {name!r}. Its arguments, closest first: "
        f"{closest_first(name, known)}"
    )


def _not_a_cell(name: str) -> str | None:
    try:
        find_cell(name)
    except ValueError as error:
        return str(error)
    return None


def _subclasses_for(option: str) -> list[type]:
    """Return the classes that ``option`` could name."""
    from torch.optim import Optimizer

    from app.tasks import Task
    from datamodules import DataModule

    bases: dict[str, Any] = {
        "model": Task,
        "data": DataModule,
        "optimizer": Optimizer,
        "orthogonal_optimizer": Optimizer,
    }
    base = bases.get(option.rpartition(".")[2].lstrip("-"))
    found = [] if base is None else subclasses(base)
    return [cls for cls in found if not cls.__name__.startswith("_") and "lightning" not in cls.__module__]
