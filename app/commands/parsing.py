"""Parsing of the options of ``fit``, ``validate``, ``test``, ``predict`` and ``export``, by LightningCLI.

The task, the data module and the Trainer are built from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from pytorch_lightning import Callback
from pytorch_lightning import Trainer as LightningTrainer
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from app.callbacks.defaults import ProgressBar, SaveConfig, run_callbacks
from app.callbacks.solved import Solved
from app.commands.class_lookup import check_implemented, check_sizes, class_at, import_named_classes, linked_sizes
from app.commands.error_messages import plain_message
from app.commands.trainer_options import check_trainer_options
from app.diagnostics.probe import outermost_cells
from app.errors import UserError
from app.plots.tensorboard import RunLogger
from app.runs.checkpoint_files import CheckpointFiles, read_checkpoint
from app.runs.configuration import dump_config
from app.runs.lightning_internals import leave_signals_alone, set_collective_timeout
from app.runs.run_directory import RunDirectory
from app.tasks import Task
from datamodules import DataModule
from datamodules.base import run_seed

MOST_MINUTES = 10_000  # a week; torch's timeouts overflow with much more


class Trainer(LightningTrainer):
    """Lightning's Trainer with a method ``export``, because LightningCLI makes one command of each method."""

    def export(
        self, model: Task, datamodule: DataModule, ckpt_path: str | None = None, weights_only: bool | None = None
    ) -> None:
        """Write a trained model as a torch.export program (.pt2) or as ONNX (.onnx), checked against the model."""


class CommandLine(LightningCLI):
    """The parsed options of one command, with the objects built from them.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict`` or ``export``.
        options: Its options.

    Attributes:
        options: The parsed options.
        model: The task.
        datamodule: The data module.
        trainer: The Trainer.
        run_directory: The run that ``fit`` writes; None in other commands and with ``--trainer.fast_dev_run``.
        solved: The callback that records when the task was solved.
    """

    def __init__(self, command: str, options: Sequence[str]) -> None:
        self.command = command
        import_named_classes(options)
        strict = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            Task,
            DataModule,
            SaveConfig,
            trainer_class=Trainer,
            trainer_defaults={
                "enable_model_summary": False,
                "max_epochs": 10,
                "use_distributed_sampler": False,  # the data modules distribute the examples over the processes
            },
            seed_everything_default=0,
            parser_kwargs={"prog": "python -m app", **strict, command: dict(strict)},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=[command, *options],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # Task.keep_hyperparameters does it, also for tasks built in Python
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning calls it on the instance
        every = {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}
        return {self.command: every[self.command]}  # each parser takes a second to build

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Run directory, which fit creates; default: runs/CONFIG/CELL-seedSEED-TIME.",
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Run directory to resume; further options may change the limits of the trainer only.",
        )
        parser.add_argument(
            "--save_every",
            type=PositiveInt | None,
            default=None,
            help="Optimizer steps between checkpoints within an epoch; default: one checkpoint after each epoch.",
        )
        parser.add_argument(
            "--observe", type=bool, default=True, help="Log pictures, gradient norms and throughput to TensorBoard."
        )
        parser.add_argument(
            "--probe_every",
            type=NonNegativeInt,
            default=100,
            help="Optimizer steps between two measurements of the gradients through time; 0: none.",
        )
        parser.add_argument(
            "--stop_when_solved",
            type=bool,
            default=False,
            help="Stop once the validation loss is below the margin at which the task counts as solved.",
        )
        parser.add_argument(
            "--flush_denormal",
            type=bool,
            default=True,
            help="Replace denormal numbers by 0 on the CPU; some processors are slow with them.",
        )
        parser.add_argument(
            "--collective_timeout",
            type=PositiveFloat,
            default=10.0,
            help="Minutes that one of several processes waits for the others before it ends.",
        )
        parser.add_argument("--output", type=str | None, default=None, help="File that predict or export writes.")
        for size in linked_sizes():
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for subparser in self._subcommand_parsers.values():
            subparser.set_defaults(weights_only=True)  # a checkpoint is data, never code

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # Lightning's method warns if sys.argv is not what is parsed
        options = self.config[self.command]
        for config in options.config or []:
            for name, value in (yaml.safe_load(config.read_text()) or {}).items():
                if name in ("resume", "ckpt_path") and value is not None:
                    raise UserError(f"--{name} must be given on the command line, but it is in {config}")
                if name not in options:  # the parser ignores an unknown name with an empty value
                    raise UserError(f"--{name} is unknown. It is in {config}. --help lists every option.")

    def _parse_ckpt_path(self) -> None:
        """Keep the options of the command line: Lightning would replace them by those of the checkpoint."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing: the modules of the commands run them."""

    def instantiate_classes(self) -> None:
        self.options = self.config[self.subcommand]
        torch.set_flush_denormal(self.options.flush_denormal)  # before any thread of OpenMP starts
        self.run_directory: RunDirectory | None = None
        self.solved = Solved(self.options.stop_when_solved)
        check_trainer_options(self.options.trainer)
        classes = class_at(self.options.model.class_path), class_at(self.options.data.class_path)
        check_implemented(*classes)
        check_sizes(*classes)
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, OSError, ImportError) as error:
            raise UserError(plain_message(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> LightningTrainer:
        given = self.config_init[self.subcommand].trainer
        if (minutes := self.options.collective_timeout) > MOST_MINUTES:
            raise UserError(f"--collective_timeout must be at most {MOST_MINUTES} minutes, got {minutes}")
        timeout = timedelta(minutes=minutes)
        kwargs["plugins"] = [*_as_list(given.plugins), CheckpointFiles()]
        callbacks = [*_as_list(given.callbacks), *([] if given.enable_progress_bar is False else [ProgressBar()])]
        if self.subcommand != "fit":
            self.save_config_callback = None
            kwargs |= {"logger": False, "enable_checkpointing": False}
        elif not given.fast_dev_run:
            self.run_directory = self._choose_run_directory()
            self.save_config_kwargs = {"run": self.run_directory}
            callbacks += self._run_callbacks(self.run_directory)
            kwargs["default_root_dir"] = str(self.run_directory.path)
            if given.logger in (None, True):
                kwargs["logger"] = self._tensorboard(self.run_directory)
        trainer = super().instantiate_trainer(**kwargs, callbacks=callbacks)
        leave_signals_alone(trainer)
        set_collective_timeout(trainer, timeout)
        return trainer

    def _choose_run_directory(self) -> RunDirectory:
        if self.options.resume:
            return RunDirectory(Path(self.options.resume))
        configs = [Path(str(config)).stem for config in self.options.config or []]
        trained = next(iter(outermost_cells(self.model).values()), self.model)
        return RunDirectory.new(self.options.run_dir, "+".join(configs) or "run", type(trained).__name__, run_seed())

    def _run_callbacks(self, run: RunDirectory) -> list[Callback]:
        options = self.options
        own = run_callbacks(self.model, run, options.observe, options.probe_every, options.save_every)
        if options.trainer.logger is False:
            own = [callback for callback in own if not isinstance(callback, LearningRateMonitor)]  # it needs a logger
        return [self.solved, *own]  # `solved` first: what it found belongs in the checkpoint of the same step

    def _tensorboard(self, run: RunDirectory) -> RunLogger:
        # points logged after the checkpoint will be logged again
        purge = read_checkpoint(Path(self.options.ckpt_path))["global_step"] if self.options.resume else None
        return RunLogger(
            run.path, name="", version="tensorboard", default_hp_metric=False, **{"purge_step": purge} if purge else {}
        )

    def as_yaml(self) -> str:
        """Return the configuration as ``RUN/config.yaml`` stores it."""
        return dump_config(self._parser(self.subcommand), self.options)


def _as_list(given: Any) -> list[Any]:
    """Return what the Trainer accepts as nothing, as one object or as several, as a list."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
