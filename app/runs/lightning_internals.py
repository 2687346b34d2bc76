"""Every use that the program makes of Lightning's private attributes (checked with Lightning 2.6.6).

Each function says why no public interface does the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultMetric
from torch.distributed.constants import default_pg_timeout


def accumulates_gradient(trainer: Trainer) -> bool:
    """Return whether the batch just trained on added to the gradient without an optimizer step.

    ``accumulate_grad_batches`` is public, but not the rule that the last batch of an epoch always makes a step.
    """
    return trainer.fit_loop.epoch_loop._should_accumulate()


def validation_follows(trainer: Trainer) -> bool:
    """Return whether a validation follows the batch just trained on.

    The rule combines ``val_check_interval``, ``check_val_every_n_epoch``, the limits and ``should_stop``. Lightning
    evaluates it only in a private method, with a private argument.
    """
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def epoch_means(trainer: Trainer) -> Iterator[tuple[str, _ResultMetric]]:
    """Yield the metrics of this training epoch that are means over its batches, by Lightning's name.

    ``trainer.callback_metrics`` has their values only at the end of the epoch. To resume within an epoch their sums and
    weights are needed, and these are public nowhere.
    """
    for name, metric in trainer.fit_loop.epoch_loop._results.items():
        if metric.is_tensor and metric.meta.on_epoch and metric.meta.is_mean_reduction:
            yield name, metric


def is_attached(module: LightningModule) -> bool:
    """Return whether ``module`` belongs to a trainer.

    The public property ``module.trainer`` raises an error where there is no trainer.
    """
    return module._trainer is not None


def set_hyperparameters(module: LightningModule, hyperparameters: dict[str, Any]) -> None:
    """Set what checkpoints store as the hyperparameters of ``module``.

    The public ``save_hyperparameters`` stores what LightningCLI parsed, whatever it is called with.
    """
    module._set_hparams(hyperparameters)


def set_collective_timeout(trainer: Trainer, timeout: timedelta) -> None:
    """Set how long a process waits for the others in a collective operation, if the strategy has the default.

    Only a strategy that is given as an object accepts the timeout as an argument. The Trainer creates most strategies
    itself, from the number of devices or from a name.
    """
    if getattr(trainer.strategy, "_timeout", None) == default_pg_timeout:
        trainer.strategy._timeout = timeout  # type: ignore[attr-defined]


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep the trainer from installing signal handlers.

    There is no option for it. Lightning's handler of SIGTERM makes processes wait for each other and hang;
    :mod:`app.callbacks.signals` has handlers that stop after a checkpoint.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
