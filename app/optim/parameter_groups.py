"""Optimizers by parameter role."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from cells import parameter_roles

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def optimizer_by_role(model: nn.Module, others: OptimizerFactory, orthogonal: OptimizerFactory | None) -> Optimizer:
    """Return the optimizer of a model, with a separate one for the parameters whose role is ``orthogonal``.

    Args:
        model: Module that holds the parameters.
        others: Called with all other parameters.
        orthogonal: Called with the orthogonal parameters. With None, or if the model has no such parameters,
            ``others`` is called with all parameters.
    """
    roles = parameter_roles(model)
    separate = [parameter for name, parameter in model.named_parameters() if roles.get(name) == "orthogonal"]
    if orthogonal is None or not separate:
        return _with_fused_kernel(others(model.parameters()))
    rest = [parameter for name, parameter in model.named_parameters() if roles.get(name) != "orthogonal"]
    parts = {"others": others(rest), "orthogonal": orthogonal(separate)}
    return JointOptimizer(**{name: _with_fused_kernel(part) for name, part in parts.items()})


def _with_fused_kernel(optimizer: Optimizer) -> Optimizer:
    """Let Adam and AdamW use torch's fused kernel on the CPU, which takes a fraction of the time of the loop.

    Nothing changes if the user chose an implementation. On CUDA torch's default is fast, and Lightning does not clip
    the gradients of an optimizer with a fused kernel under ``16-mixed``.
    """
    if type(optimizer) in (Adam, AdamW):
        for group in optimizer.param_groups:
            chosen = any(group[option] for option in ("fused", "foreach", "capturable", "differentiable"))
            on_cpu = all(p.device.type == "cpu" and p.is_floating_point() for p in group["params"])
            if group["fused"] is None and not chosen and on_cpu:
                group["fused"] = True
    return optimizer


def parameter_parts(model: nn.Module) -> dict[str, str]:
    """Return, by name of the parameter, its role or else the part of the model it belongs to (``cell``, ``head``)."""
    roles = parameter_roles(model)
    return {name: roles.get(name, name.partition(".")[0]) for name, _ in model.named_parameters()}


class JointOptimizer(Optimizer):
    """Several optimizers that step, save and resume as one.

    Lightning accepts only one optimizer in automatic optimization. In manual optimization it does not clip gradients,
    and it counts a step for each optimizer. This class holds the groups and the state of all optimizers, so clipping,
    gradient scaling, learning-rate schedules, monitors and checkpoints work as with a single optimizer.

    Args:
        **parts: The optimizers, over disjoint parameters. The groups of each get its name.
    """

    def __init__(self, **parts: Optimizer) -> None:
        self.parts = list(parts.values())
        self.sizes = [len(part.param_groups) for part in self.parts]
        groups = [{**group, "name": name} for name, part in parts.items() for group in part.param_groups]
        super().__init__(groups, {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate ``closure`` once, then take one step of each optimizer."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # creates new groups and a new state
        self._share()

    def _share(self) -> None:
        """Let the parts use the groups and the state of this optimizer."""
        groups = iter(self.param_groups)
        for part, size in zip(self.parts, self.sizes, strict=True):
            part.param_groups = [next(groups) for _ in range(size)]
            part.state = self.state
