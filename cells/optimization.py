"""What training must know of the cells inside a model: the roles of parameters, and who counts optimiser steps."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from cells.cell import Cell


def parameter_roles(module: nn.Module) -> dict[str, str]:
    """The parameters of a model that optimisers should treat apart: role (``orthogonal``) by full parameter name.

    A cell says it of its class (``Cell.roles``), not of the parameter objects, which do not keep attributes through
    deepcopy and moves between devices.
    """
    return {
        f"{prefix}.{name}" if prefix else name: role
        for prefix, cell in module.named_modules()
        if isinstance(cell, Cell)
        for name, role in cell.roles.items()
    }


def follow_optimizer(module: nn.Module, optimizer: Optimizer) -> RemovableHandle:
    """Let every cell in ``module`` count the steps of ``optimizer``; call it once where the optimiser is made.

    It works wherever the optimiser is stepped (a plain loop, Lightning, gradient accumulation, a scaler that skips
    steps), because torch itself calls the hook after each step that was taken. ``remove()`` of the handle ends it.
    """

    def tell(*_: object) -> None:
        for cell in module.modules():
            if isinstance(cell, Cell):
                cell.after_optimizer_step()

    return optimizer.register_step_post_hook(tell)
