"""Checkpoint files: written whole or not at all, checked when they are read, refused where they do not fit."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from app.errors import UserError
from app.tasks import Task
from datamodules.files import replacing


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning is to write checkpoints: a file appears under its name when all of it is on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: if it cannot be written; what lay there before is untouched.
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
            raise UserError(
                f"the checkpoint {path} cannot be written: {error.strerror}; make room and go on with --resume"
            ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, as plain data and tensors.

    Raises:
        UserError: if there is no such file, it is no checkpoint, or a part of it is missing or has changed.
    """
    if not path.is_file():
        raise UserError(f"ckpt_path is '{path}', but there is no such file; RUN/checkpoints/best.ckpt is expected")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # by the checksums that torch.save writes and torch.load does not look at
        if damaged:
            raise ValueError(f"{damaged} in it is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if "weights_only" in reason:  # torch advises to load it all the same
            reason = "it is no file of tensors and plain data"
        raise UserError(f"ckpt_path is '{path}', which cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "hyper_parameters" not in checkpoint:
        raise UserError(f"ckpt_path is '{path}', which is no checkpoint of this program")
    return checkpoint


def check_fits(checkpoint: Mapping[str, Any], task: Task, path: Path) -> None:
    """Refuse a checkpoint whose model is not ``task``: other arguments of the cell, other sizes, other parameters.

    Raises:
        UserError: with the first differences by name.
    """
    saved, asked = (
        flat({name: value for name, value in hyperparameters.items() if name not in task.training_arguments})
        for hyperparameters in (checkpoint["hyper_parameters"], task.hparams)
    )
    differences = [
        f"{name} is {asked[name]!r}, in the checkpoint {saved[name]!r}"
        for name in saved.keys() & asked.keys()
        if saved[name] != asked[name]
    ]
    saved, asked = (
        {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
        for state in (checkpoint["state_dict"], task.state_dict())
    )
    differences += [
        f"parameter {name} has shape {asked.get(name, 'none')}, in the checkpoint {saved.get(name, 'none')}"
        for name in saved.keys() | asked.keys()
        if saved.get(name) != asked.get(name)
    ]
    if differences:
        raise UserError(f"the configuration and {path} contradict each other: {'; '.join(sorted(differences)[:3])}")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names such as ``model.init_args.cell``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
