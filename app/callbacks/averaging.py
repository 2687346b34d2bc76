"""Evaluation and checkpoints with the averaged weights of NT-ASGD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from app.optim.nt_asgd import NTASGD
from app.optim.parameter_groups import JointOptimizer

TRAINING_WEIGHTS = "training_weights"  # checkpoint entry: the weights that training continues from


class AveragedWeights(Callback):
    """Validates the average that :class:`app.optim.nt_asgd.NTASGD` keeps, and saves it in checkpoints.

    Once there is an average, validations evaluate it, and ``state_dict`` of a checkpoint holds it, so that everything
    that loads the checkpoint uses it. The checkpoint holds the weights that training continues from as a separate
    entry, which only a resumed training reads. With other optimizers this callback does nothing.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            _swap(trainer.optimizers)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            _swap(trainer.optimizers)
            for optimizer in _parts(trainer.optimizers):
                if isinstance(optimizer, NTASGD):
                    optimizer.validated(float(trainer.callback_metrics["validation/loss"]))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        averages = dict(_averages(trainer.optimizers))
        averaged = {name: averages[p] for name, p in pl_module.named_parameters() if p in averages}
        if averaged:
            checkpoint[TRAINING_WEIGHTS] = {name: weights[name] for name in averaged}
            weights.update(averaged)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            pl_module.load_state_dict(checkpoint.get(TRAINING_WEIGHTS, {}), strict=False)


def _parts(optimizers: Iterable[Optimizer]) -> Iterator[Optimizer]:
    for optimizer in optimizers:
        yield from optimizer.parts if isinstance(optimizer, JointOptimizer) else [optimizer]


def _averages(optimizers: Iterable[Optimizer]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each parameter that has an average, with the average."""
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            if "average" in state:
                yield parameter, state["average"]


@torch.no_grad()
def _swap(optimizers: Iterable[Optimizer]) -> None:
    """Exchange the weights and their averages."""
    for parameter, average in _averages(optimizers):
        weight = parameter.detach().clone()
        parameter.copy_(average)
        average.copy_(weight)
