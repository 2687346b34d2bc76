"""What a training program asks of the cells in a model: roles of parameters, and the count of optimizer steps."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from cells.cell import Cell


def parameter_roles(module: nn.Module) -> dict[str, str]:
    """Return the parameters that optimizers should treat separately: role (``orthogonal``) by full parameter name.

    The role belongs to the class (``Cell.roles``), because parameter objects lose their attributes in a deepcopy or a
    move to another device.
    """
    return {
        f"{prefix}.{name}" if prefix else name: role
        for prefix, cell in module.named_modules()
        if isinstance(cell, Cell)
        for name, role in cell.roles.items()
    }


def follow_optimizer(module: nn.Module, optimizer: Optimizer) -> RemovableHandle:
    """Call ``after_optimizer_step`` of every cell in ``module`` after each step of ``optimizer``.

    Call it once, where the optimizer is created. It works in any training loop (plain, Lightning, gradient
    accumulation, a gradient scaler that skips steps), because torch runs the hook after each step that was taken.

    Returns:
        A handle whose ``remove()`` ends the calls.
    """

    def tell(*_: object) -> None:
        for cell in module.modules():
            if isinstance(cell, Cell):
                cell.after_optimizer_step()

    return optimizer.register_step_post_hook(tell)
