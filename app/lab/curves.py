"""Validation curves of a run as a file that can be read while it trains."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from datamodules.files import replacing


class Curves(Callback):
    """Write ``RUN/curves.json``: epoch, optimizer step, seconds and metrics of each validation.

    The rows are part of the checkpoint. A resumed run therefore continues them where its checkpoint was written.

    Attributes:
        rows: One mapping for each validation; ``epoch`` counts from 1, ``seconds`` is the time spent in ``fit`` so
            far, of interrupted starts up to their checkpoint.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.before = 0.0
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self.before + time.monotonic() - self.start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = {
            name.removeprefix("validation/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("validation/")
        }
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "seconds": round(self.seconds, 3)}
        self.rows.append(row | metrics)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            path = Path(trainer.default_root_dir) / "curves.json"
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(self.rows), encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.before = state_dict["seconds"]
