"""Reading checkpoints, and refusing those that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from app.errors import UserError
from app.tasks import Task

# hyperparameters that do not change what a trained model computes
OF_TRAINING = ("optimizer", "orthogonal_optimizer", "lr_schedule", "choose_by")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, as plain data and tensors.

    Raises:
        UserError: if there is no such file, or it is no checkpoint or not a whole one.
    """
    if not path.is_file():
        raise UserError(f"ckpt_path is '{path}', but there is no such file; RUN/checkpoints/best.ckpt is expected")
    try:
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
        _flat({name: value for name, value in hyperparameters.items() if name not in OF_TRAINING})
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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
