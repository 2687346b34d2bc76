"""States of the random generators of all processes in checkpoints."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from app.errors import UserError
from app.runs.distributed import of_every_process

State = dict[str, Any]
GENERATORS = ("python", "numpy", "torch")


class RandomStates(Callback):
    """Saves and restores random states, so that dropout in a resumed run equals that of an uninterrupted one.

    All processes start with the same seed, so that their weights are equal. From the start of the training each process
    of a rank above 0 uses a different seed; otherwise all would draw the same dropout masks.
    """

    def __init__(self) -> None:
        self.loaded: list[State] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        checkpoint["random_states"] = of_every_process(_states(trainer.strategy.root_device))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        self.loaded = list(checkpoint.get("random_states", []))
        if missing := [name for states in self.loaded for name in GENERATORS if name not in states]:
            raise UserError(f"the checkpoint cannot be restored: its random_states are invalid: no {missing[0]!r}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank = trainer.global_rank
        if rank < len(self.loaded):
            try:
                _set_states(self.loaded[rank], trainer.strategy.root_device)
            except Exception as error:  # a generator raises any exception for a state of another form
                reason = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"the checkpoint cannot be restored: its random_states are invalid: {reason}"
                ) from error
        elif rank:
            torch.manual_seed(torch.initial_seed() + rank)
        self.loaded = []


def _states(device: torch.device) -> State:
    """Return the states of the generators of this process as plain data."""
    state: Any = np.random.get_state()
    kind, keys, *rest = state
    states = {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_states(states: State, device: torch.device) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
