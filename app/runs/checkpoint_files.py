"""Checkpoint files: replaced as a whole, verified when they are read, compared with the configuration."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch.optim import Optimizer

from app.errors import UserError
from cells import Cell
from datamodules.files import replacing

if TYPE_CHECKING:
    from app.tasks import Task

INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"  # how load_from_checkpoint builds a task
REQUIRED = {  # with the types of the entries
    "state_dict": Mapping,
    "hyper_parameters": Mapping,
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
}


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's writer of checkpoints, changed so that a file gets its name when all of it is on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: if it cannot be written. The old file is unchanged.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            run = path.parent.parent
            again = f"resume with --resume {run}" if (path.parent / "last.ckpt").exists() else "start the run again"
            raise UserError(f"{path} cannot be written: {error.strerror}. Correct this and {again}.") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint: plain data and tensors.

    Raises:
        UserError: if the file does not exist, is not a checkpoint, or is damaged.
    """
    if not path.is_file():
        raise UserError(f"ckpt_path '{path}' does not exist. A file such as RUN/checkpoints/best.ckpt is expected.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # by the checksums that torch.save writes and torch.load ignores
        if damaged:
            raise ValueError(f"its part {damaged} is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if "weights_only" in reason:  # torch's message advises to load it without this protection
            reason = "it contains more than tensors and plain data"
        raise UserError(f"ckpt_path '{path}' cannot be read: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"ckpt_path '{path}' is not a checkpoint of this program")
    checkpoint.setdefault("hyper_parameters", {})  # Lightning omits them for a task that keeps none
    if wrong := [name for name, kind in REQUIRED.items() if not isinstance(checkpoint.get(name), kind)]:
        raise UserError(f"ckpt_path '{path}' is not a checkpoint of this program: it has no valid {wrong[0]}")
    for name, weight in checkpoint["state_dict"].items():
        if isinstance(weight, torch.Tensor) and (weight.layout, weight.device.type) != (torch.strided, "cpu"):
            raise UserError(f"ckpt_path '{path}' must contain dense weights, got {weight.layout} for {name}")
    return checkpoint


def check_classes(hyperparameters: Mapping[str, Any]) -> None:
    """Check that the hyperparameters of a checkpoint name only cells and optimizers that have been imported.

    Lightning imports and calls what a checkpoint names, so a checkpoint from a stranger could run any function.

    Raises:
        UserError: for another class or function, or a module that has not been imported.
    """
    if (instantiator := hyperparameters.get("_instantiator", INSTANTIATOR)) != INSTANTIATOR:
        raise UserError(f"the checkpoint must be instantiated by {INSTANTIATOR}, got {instantiator!r}")
    for name, value in flat(hyperparameters).items():
        if not name.endswith("class_path"):
            continue
        module, _, class_name = str(value).rpartition(".")
        found = getattr(sys.modules.get(module), class_name, None)
        if not (isinstance(found, type) and issubclass(found, (Cell, Optimizer))):
            raise UserError(
                f"{name.rpartition('.')[0]} of the checkpoint must be an imported subclass of Cell or Optimizer, "
                f"got {value!r}. If it is one that you trust, import {module or 'it'} first."
            )


def check_fits(checkpoint: Mapping[str, Any], task: Task, path: Path, ignored: Sequence[str]) -> None:
    """Check that ``checkpoint`` was written by a task with the arguments and parameters of ``task``.

    Args:
        checkpoint: Its contents.
        task: The task that the configuration describes.
        path: Where it was read from.
        ignored: Arguments of the task that may differ.

    Raises:
        UserError: with the first differences.
    """
    saved, asked = (
        flat({name: value for name, value in hyperparameters.items() if name not in ignored})
        for hyperparameters in (checkpoint["hyper_parameters"], task.hparams)
    )
    differences = [
        f"{name} is {asked[name]!r}, but {saved[name]!r} in the checkpoint"
        for name in saved.keys() & asked.keys()
        if saved[name] != asked[name]
    ]
    saved, asked = (
        {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
        for state in (checkpoint["state_dict"], task.state_dict())
    )
    differences += [
        f"parameter {name} has shape {asked.get(name, 'none')}, but {saved.get(name, 'none')} in the checkpoint"
        for name in saved.keys() | asked.keys()
        if saved.get(name) != asked.get(name)
    ]
    if differences:
        raise UserError(f"the configuration contradicts {path}: {'; '.join(sorted(differences)[:3])}")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted names, such as ``model.init_args.cell``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
