"""Which configuration files a command reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace

import app
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from app.runs.run_directory import RunDirectory
from cells.validation import closest_first

CONFIG_FLAGS = ("--config", "-c")


def with_existing_configs(options: Sequence[str]) -> list[str]:
    """``options`` with each ``--config`` that is no file replaced by the packaged one of this path."""
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
            f"config is {given!r}, but there is no such file; those that come with the program, closest first: "
            f"{closest_first(given, known)}"
        )
    try:
        yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"config is {given!r}, which is no readable YAML: {' '.join(str(error).split())}") from error
    return path


def with_run_config(command: str, options: list[str]) -> list[str]:
    """``options`` with the configuration of the run that wrote the checkpoint, where none is given.

    Raises:
        UserError: if there is no checkpoint, or its run has no configuration.
    """
    checkpoint = given(options, "--ckpt_path")
    if command == "fit" or "--help" in options or "-h" in options:
        return options
    if not checkpoint:
        raise UserError(f"{command} needs --ckpt_path FILE, such as RUN/checkpoints/best.ckpt")
    read_checkpoint(Path(checkpoint))
    if any(given(options, flag) for flag in CONFIG_FLAGS):
        return options
    config = RunDirectory.of_checkpoint(Path(checkpoint)).config
    if not config.is_file():
        raise UserError(f"there is no {config} to say what {checkpoint} was trained on; name it by --config FILE")
    return ["--config", str(config), *options]


def given(options: Sequence[str], flag: str) -> str:
    """The last value that ``options`` have for ``flag``, or nothing."""
    values = [
        option.partition("=")[2] or following
        for option, following in zip(options, [*options[1:], ""], strict=False)
        if option.partition("=")[0] == flag
    ]
    return values[-1] if values else ""


def dump_config(parser: ArgumentParser, config: Namespace) -> str:
    """A configuration as it is kept in ``RUN/config.yaml``: to be run again, so without what belongs to one start."""
    config = config.clone()
    config.run_dir = config.resume = config.ckpt_path = None
    text: str = parser.dump(config, skip_unset=False)
    return text
