"""Configuration files: which ones a command reads, and how a run stores its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

import app
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from app.runs.run_directory import RunDirectory
from cells.validation import closest_first

CONFIG_FLAGS = ("--config", "-c")
MAX_NODES = 100_000  # a small file with nested aliases can expand to more than fits in memory


class _Strict(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML's loader, except that a key given twice and aliases that expand to very much are errors."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if _expanded_size(node, {}) > MAX_NODES:
            raise yaml.YAMLError(f"its aliases expand to more than {MAX_NODES:,} entries")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key.value!r} is given twice, again in line {line}")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _expanded_size(node: Any, sizes: dict[int, int]) -> int:
    """Return the number of entries in ``node`` with every alias replaced by its target."""
    if id(node) not in sizes:
        sizes[id(node)] = MAX_NODES + 1  # of an alias of an enclosing node, which would expand without end
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        entries = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        sizes[id(node)] = 1 + sum(_expanded_size(entry, sizes) for entry in entries)
    return sizes[id(node)]


def with_existing_configs(options: Sequence[str]) -> list[str]:
    """Return ``options`` with each ``--config`` that does not exist replaced by the packaged file of this path."""
    resolved: list[str] = []
    for option, before in zip(options, ["", *options], strict=False):
        flag, equals, value = option.partition("=")
        if before in CONFIG_FLAGS:
            resolved.append(str(_existing_config(option)))
        elif flag in CONFIG_FLAGS and equals:
            resolved += [flag, str(_existing_config(value))]
        else:
            resolved.append(option)
    return resolved


def _existing_config(given: str) -> Path:
    packaged = Path(app.__file__).parents[1]
    path = next((path for path in (Path(given), packaged / given) if path.is_file()), None)
    if path is None:
        known = [str(path.relative_to(packaged)) for path in (packaged / "configs").rglob("*.yaml")]
        raise UserError(
            f"config {given!r} does not exist. The program comes with, closest first: {closest_first(given, known)}"
        )
    check_config(path)
    return path


def check_config(path: Path) -> None:
    """Check that a configuration file is YAML that the parser can read.

    Raises:
        UserError: if it cannot be read, is not a mapping, or gives a key twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except RecursionError as error:
        raise UserError(f"config '{path}' is nested too deeply") from error
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:  # TypeError: a list as a key
        raise UserError(f"config '{path}' is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"config '{path}' must contain blocks such as 'trainer:' and 'model:', got {str(content)[:40]!r}"
        )
    for entry in _mappings(content):
        if not isinstance(entry.get("class_path", ""), str):
            raise UserError(f"class_path in config '{path}' must be a text, got {entry['class_path']!r}")
        if not isinstance(entry.get("init_args", {}), dict):
            raise UserError(f"init_args in config '{path}' must be a block of arguments, got {entry['init_args']!r}")


def _mappings(content: Any) -> Iterator[dict[Any, Any]]:
    """Yield ``content`` if it is a mapping, and all mappings in it."""
    if isinstance(content, dict):
        yield content
    if isinstance(content, (dict, list)):
        for entry in content.values() if isinstance(content, dict) else content:
            yield from _mappings(entry)


def with_run_config(command: str, options: list[str]) -> list[str]:
    """Return ``options`` with the configuration of the run that wrote the checkpoint, unless they have one.

    Raises:
        UserError: if no checkpoint is given, it cannot be read, or its run has no configuration.
    """
    checkpoint = given(options, "--ckpt_path")
    if command == "fit" or "--help" in options or "-h" in options:
        return options
    if not checkpoint:
        raise UserError("--ckpt_path must be given, such as RUN/checkpoints/best.ckpt")
    read_checkpoint(Path(checkpoint))
    if any(given(options, flag) for flag in CONFIG_FLAGS):
        return options
    config = RunDirectory.of_checkpoint(Path(checkpoint)).config
    if not config.is_file():
        raise UserError(f"{config}, the configuration of {checkpoint}, does not exist. Give it by --config FILE.")
    check_config(config)
    return ["--config", str(config), *options]


def given(options: Sequence[str], flag: str) -> str:
    """Return the last value of ``flag`` in ``options``, or an empty text."""
    values = [
        option.partition("=")[2] or following
        for option, following in zip(options, [*options[1:], ""], strict=False)
        if option.partition("=")[0] == flag
    ]
    return values[-1] if values else ""


def dump_config(parser: ArgumentParser, config: Namespace) -> str:
    """Return a configuration as YAML for ``RUN/config.yaml``, without the options that belong to one start."""
    config = config.clone()
    config.run_dir = config.resume = config.ckpt_path = None
    try:
        text: str = parser.dump(config, skip_unset=False)
    except ValueError as error:  # an argument without a form in YAML, such as a default that is an Enum
        reason = re.search(r"cannot represent an object.*", str(error))
        raise UserError(f"the configuration cannot be stored as YAML: {reason[0] if reason else error}") from error
    return text
