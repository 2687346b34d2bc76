"""Running means of the current epoch in checkpoints."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from app.runs.distributed import of_every_process
from app.runs.lightning_internals import epoch_means

State = dict[str, Any]


class RunningMeans(Callback):
    """Saves and restores the means of the training metrics of an unfinished epoch.

    Without it, Lightning would average only the batches after the checkpoint.
    """

    def __init__(self) -> None:
        self.loaded: list[State] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        checkpoint["running_means"] = of_every_process(_sums(trainer))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        self.loaded = list(checkpoint.get("running_means", []))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank < len(self.loaded):  # Lightning creates the means in the first batch
            means = dict(epoch_means(trainer))
            for name, (total, weight) in self.loaded[trainer.global_rank].items():
                device = means[name].value.device
                means[name].value = means[name].value + total.to(device)
                means[name].cumulated_batch_size = means[name].cumulated_batch_size + weight.to(device)
        self.loaded = []


def _sums(trainer: Trainer) -> State:
    """Return sum and weight of each mean over the batches of this epoch, by name; empty at the end of an epoch."""
    if trainer.is_last_batch:
        return {}
    return {
        name: (metric.value.cpu(), metric.cumulated_batch_size.cpu())
        for name, metric in epoch_means(trainer)
        if metric.meta.fx != "on_train_epoch_end"  # a value of the previous epoch
    }
