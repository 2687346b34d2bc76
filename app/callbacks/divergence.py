"""Numbers that are not finite end a training, and the message says where they arose."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from app.errors import DivergenceError
from app.optim.parameter_groups import parameter_parts


class StopOnDivergence(Callback):
    """Stop before the optimiser's step if a gradient is not finite, so that weights and checkpoints stay good.

    With 16-bit floats, gradients that overflow are what the scaler of the loss looks for; there the training stops
    only if the loss itself is not finite. It costs one look at the gradients a step, for which a GPU is waited for.
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
        still = f", those of {' and '.join(others)} still are" if others else ""
        loss = "the loss is" if bool(self.loss.isfinite()) else "the loss, too, is not finite:"
        raise DivergenceError(
            f"the gradients of {' and '.join(broken)} are not finite{still} ({_where(trainer)}; {loss} "
            f"{self.loss.item():.6g}); a lower learning rate or --trainer.gradient_clip_val may help"
        )


def check_weights(module: nn.Module, step: int) -> None:
    """Refuse weights that are not finite.

    Raises:
        DivergenceError: with the names of the parameters.
    """
    broken = [name for name, parameter in module.named_parameters() if not bool(parameter.isfinite().all())]
    if broken:
        raise DivergenceError(f"the weights {', '.join(broken)} are not finite after step {step}")


def _where(trainer: Trainer) -> str:
    return f"step {trainer.global_step}, epoch {trainer.current_epoch}, batch {trainer.fit_loop.batch_idx}"
