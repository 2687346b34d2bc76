"""Divergence: numbers that are not finite stop the training, with a message that says where they occurred."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from app.errors import DivergenceError
from app.optim.parameter_groups import parameter_parts


class StopOnDivergence(Callback):
    """Stops the training before an optimizer step with gradients that are not finite. Weights stay valid.

    With ``16-mixed``, the gradient scaler handles gradients that overflow, so the training stops only if the loss is
    not finite. The check reads the gradients once per step and synchronizes the GPU.

    Raises:
        DivergenceError: With the step and the parts of the model whose gradients are not finite.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parts = parameter_parts(pl_module)
        self.scaled = getattr(trainer.precision_plugin, "scaler", None) is not None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.scaled and bool(self.loss.isfinite()):
            return
        sums = {name: p.grad.sum() for name, p in pl_module.named_parameters() if p.grad is not None}
        if bool(torch.stack(list(sums.values())).isfinite().all()):
            return
        broken = sorted({self.parts[name] for name, total in sums.items() if not bool(total.isfinite())})
        others = sorted({self.parts[name] for name in sums} - set(broken))
        still = f"; those of {' and '.join(others)} are" if others else ""
        loss = "the loss is" if bool(self.loss.isfinite()) else "the loss is not finite:"
        raise DivergenceError(
            f"the gradients of {' and '.join(broken)} are not finite{still} ({_where(trainer)}; {loss} "
            f"{self.loss.item():.6g}). Try a lower learning rate or --trainer.gradient_clip_val"
        )


def check_weights(module: nn.Module, step: int) -> None:
    """Check that all weights are finite.

    Raises:
        DivergenceError: With the names of the parameters that are not.
    """
    broken = [name for name, parameter in module.named_parameters() if not bool(parameter.isfinite().all())]
    if broken:
        raise DivergenceError(f"the weights {', '.join(broken)} are not finite after step {step}")


def _where(trainer: Trainer) -> str:
    return f"step {trainer.global_step}, epoch {trainer.current_epoch}, batch {trainer.fit_loop.batch_idx}"
