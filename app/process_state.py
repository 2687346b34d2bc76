"""What a checkpoint keeps of every process beside weights and optimisers: its random generators, its running means."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

State = dict[str, Any]


class ProcessState(Callback):
    """Let each process of a resumed run go on as it would have in an undisturbed one.

    Dropout and whatever else is drawn continues, and so do the means over the epoch that the run was stopped in.
    Processes beyond the first start from seeds of their own: they begin with the same weights and seed, and would
    otherwise drop the same units in different examples.
    """

    def __init__(self) -> None:
        self.loaded: list[State] = []
        self.means: State = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        own = {"random": _random_states(trainer.strategy.root_device), "means": _running_means(trainer)}
        every: list[Any] = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(every, own)
        checkpoint["processes"] = every

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        self.loaded = checkpoint.get("processes", [])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank = trainer.global_rank
        if rank < len(self.loaded):
            self.means = self.loaded[rank]["means"]
            _set_random_states(self.loaded[rank]["random"], trainer.strategy.root_device)
        elif rank:
            torch.manual_seed(torch.initial_seed() + rank)
        self.loaded = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        results = trainer.fit_loop.epoch_loop._results
        for name, (total, weight) in self.means.items():  # only now, after the first batch, does Lightning have them
            results[name].value = results[name].value + total.to(results[name].value.device)
            results[name].cumulated_batch_size = results[name].cumulated_batch_size + weight.to(
                results[name].value.device
            )
        self.means = {}


def _running_means(trainer: Trainer) -> State:
    """Sum and weight of each mean over the epoch that is going on, by Lightning's name for it; Lightning keeps none."""
    if trainer.is_last_batch:
        return {}
    return {
        name: (metric.value.cpu(), metric.cumulated_batch_size.cpu())
        for name, metric in trainer.fit_loop.epoch_loop._results.items()
        if metric.is_tensor and metric.meta.on_epoch and metric.meta.is_mean_reduction
    }


def _random_states(device: torch.device) -> State:
    """The states of this process's generators as plain data."""
    state: Any = np.random.get_state()
    kind, keys, *rest = state
    states = {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_states(states: State, device: torch.device) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
