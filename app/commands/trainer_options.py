"""Checks of the options of the Trainer that Lightning accepts and then fails with, or silently does nothing."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from app.errors import UserError

AT_LEAST_ONE = ("accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps")
POSITIVE = ("val_check_interval", "gradient_clip_val")
BATCH_LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches")


def check_trainer_options(trainer: Any) -> None:
    """Check the parsed options ``--trainer.*``.

    Raises:
        UserError: for a value outside the accepted range.
    """
    if not isinstance(trainer, Namespace):
        raise UserError(f"--trainer must be a block of options, got {trainer!r}")
    for name in AT_LEAST_ONE:
        if (value := trainer[name]) is not None and value < 1:
            raise UserError(f"--trainer.{name} must be an integer of at least 1, got {value}")
    for name in POSITIVE:
        if isinstance(value := trainer[name], (int, float)) and not value > 0:
            raise UserError(f"--trainer.{name} must be above 0, got {value}")
    for name in BATCH_LIMITS:
        value = trainer[name]
        fraction = isinstance(value, float) and 0 <= value <= 1
        count = isinstance(value, (int, float)) and value >= 0 and value == int(value)
        if value is not None and not fraction and not count:
            raise UserError(f"--trainer.{name} must be a number of batches or a fraction in [0, 1], got {value}")
    for name in ("max_epochs", "max_steps"):
        if (value := trainer[name]) is not None and value < -1:
            raise UserError(f"--trainer.{name} must be at least 0, or -1 for no limit, got {value}")
    if isinstance(trainer.strategy, str) and trainer.strategy.endswith(("_spawn", "_fork", "_notebook")):
        raise UserError(
            f"--trainer.strategy must start processes that run the whole program, as ddp does, got {trainer.strategy!r}"
        )
    if trainer.enable_checkpointing is False:
        raise UserError("--trainer.enable_checkpointing must be true: fit chooses the best checkpoint")
