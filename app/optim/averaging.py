"""Averaged stochastic gradient descent that begins by itself, and the use of its average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.optim import SGD, Optimizer

from app.optim.parameter_groups import JointOptimizer

TRAINING_WEIGHTS = "training_weights"  # in a checkpoint: the weights that go on, where state_dict holds their average


class NTASGD(SGD):
    """SGD that, once validation stops improving, also keeps the average of its iterates (NT-ASGD).

    The average begins after the validation whose loss is worse than the best one up to ``nonmonotone`` validations
    before its predecessor, w_avg = (w_2 + .. + w_K) / (K - 1) over the K steps since then, which is
    torch.optim.ASGD(t0=0, lambd=0). The training itself goes on from w_K as before. Validations are told by
    :class:`AveragedWeights`, which tasks bring with them; it also measures and saves the average in place of the
    last weights.

    Source: Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, which stays what it is.
        weight_decay: Factor of the squared norm's gradient.
        nonmonotone: n, the number of validations that may pass without being better than what was before them.

    Raises:
        ValueError: if ``nonmonotone`` is below 1.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 30.0, weight_decay: float = 0.0, nonmonotone: int = 5
    ) -> None:
        if nonmonotone < 1:
            raise ValueError(f"nonmonotone is {nonmonotone}; an integer of at least 1 is expected")
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.defaults["nonmonotone"] = nonmonotone
        for group in self.param_groups:  # in the groups, so that it is saved and restored with them
            group |= {"nonmonotone": nonmonotone, "losses": [], "averaging": False, "iterates": 0}

    def validated(self, loss: float) -> None:
        """Tell the loss of a validation; the average begins if it is the one."""
        for group in self.param_groups:
            before = group["losses"][: -group["nonmonotone"]]
            group["averaging"] = group["averaging"] or bool(before and loss > min(before))
            group["losses"] = [*group["losses"], loss]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of SGD, after which the average takes in the new weights if it has begun."""
        loss = super().step(closure)
        for group in self.param_groups:
            if not group["averaging"]:
                continue
            group["iterates"] += 1
            parameters = [parameter for parameter in group["params"] if parameter.requires_grad]
            if group["iterates"] == 1:
                for parameter in parameters:
                    self.state[parameter]["average"] = parameter.detach().clone()
            else:
                averages = [self.state[parameter]["average"] for parameter in parameters]
                torch._foreach_lerp_(averages, parameters, 1 / (group["iterates"] - 1))
        return loss


class AveragedWeights(Callback):
    """Validation of the average that :class:`NTASGD` keeps, and its place in checkpoints.

    While there is an average, validations measure it, and a checkpoint's ``state_dict`` holds it, so that whatever
    reads the checkpoint uses it; the weights that training goes on from are beside it, for a run that is resumed.
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


def _averages(optimizers: Iterable[Optimizer]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each parameter that has an average, and the average."""
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            if "average" in state:
                yield parameter, state["average"]


@torch.no_grad()
def _swap(optimizers: Iterable[Optimizer]) -> None:
    """Exchange the weights and their averages; a second time, exchange them back."""
    for parameter, average in _averages(optimizers):
        weight = parameter.detach().clone()
        parameter.copy_(average)
        average.copy_(weight)
