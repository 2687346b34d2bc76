"""Optimisers by the role of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cells import parameter_roles

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def optimizer_by_role(model: nn.Module, others: OptimizerFactory, orthogonal: OptimizerFactory | None) -> Optimizer:
    """The optimiser of a model, with one of their own for the parameters whose role is ``orthogonal``.

    Args:
        model: What holds the parameters.
        others: Called with the parameters that no other optimiser has.
        orthogonal: Called with the orthogonal parameters; None leaves them to ``others``, and so does a model that has
            none.
    """
    roles = parameter_roles(model)
    apart = [parameter for name, parameter in model.named_parameters() if roles.get(name) == "orthogonal"]
    if orthogonal is None or not apart:
        return others(model.parameters())
    rest = [parameter for name, parameter in model.named_parameters() if roles.get(name) != "orthogonal"]
    return JointOptimizer(others=others(rest), orthogonal=orthogonal(apart))


def parameter_parts(model: nn.Module) -> dict[str, str]:
    """What each parameter belongs to, by its name: its role, or the part of the model (``cell``, ``head``)."""
    roles = parameter_roles(model)
    return {name: roles.get(name, name.partition(".")[0]) for name, _ in model.named_parameters()}


class JointOptimizer(Optimizer):
    """Several optimisers, of the same kind or not, that step, save and resume as one.

    Lightning refuses two optimisers in automatic mode; in manual mode it does not clip and counts each step twice. One
    object with the groups and the state of all of them behaves as any other optimiser: for clipping, for a scaler, for
    learning-rate schedules and monitors, and in checkpoints.

    Args:
        **parts: The optimisers, over different parameters; the name of each becomes the name of its groups.
    """

    def __init__(self, **parts: Optimizer) -> None:
        self.parts = list(parts.values())
        self.sizes = [len(part.param_groups) for part in self.parts]
        groups = [{**group, "name": name} for name, part in parts.items() for group in part.param_groups]
        super().__init__(groups, {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each optimiser, after one evaluation of ``closure``."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # puts new objects in the place of the groups and of the state
        self._share()

    def _share(self) -> None:
        """Let the parts work on the groups and on the state of the whole."""
        groups = iter(self.param_groups)
        for part, size in zip(self.parts, self.sizes, strict=True):
            part.param_groups = [next(groups) for _ in range(size)]
            part.state = self.state
