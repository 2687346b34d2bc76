"""The commands that train and use a model: LightningCLI over tasks, data modules and run directories."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer as LightningTrainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

import cells
from app.callbacks.checkpoints import LastCheckpoint
from app.callbacks.defaults import ProgressBar, SaveConfig, run_callbacks
from app.callbacks.solved import Solved
from app.commands import console
from app.commands.class_lookup import check_sizes, class_at, import_named_classes, linked_sizes
from app.commands.console import metrics_table
from app.commands.error_messages import dropped_arguments, plain_sentence
from app.commands.export import export
from app.commands.predictions import check_output, every_prediction, write_predictions
from app.errors import DivergenceError, LostProcessError, Stopped, UserError
from app.runs.checkpoint_files import CheckpointFiles, check_fits, read_checkpoint
from app.runs.configuration import dump_config, with_existing_configs, with_run_config
from app.runs.distributed import FIRST, end_with_first
from app.runs.lightning_internals import leave_signals_alone
from app.runs.resume import check_unchanged, with_resumed_run
from app.runs.run_directory import RunDirectory, flat_hyperparameters, split_metrics, versions, write_results
from app.tasks import Task
from datamodules import DataError, DataModule

CHOSEN_ON = {
    False: "the validation set; the test set was read once",
    True: "the test set, for there is no validation split: 'test' is of the last epoch, 'best_test' is the best of all "
    "epochs by the test set itself, so it is optimistic",
}
IGNORED_WARNINGS = (
    "`isinstance(treespec, LeafSpec)` is deprecated",  # Lightning 2.6 under torch 2.11
    "does not have many workers",  # batches come from memory: workers would only copy them
    "The given buffer is not writable",  # torch.export.load, of a file that is only read
    "Be aware that when using `ckpt_path`",  # an evaluation needs no callback of the training
    "The number of training batches",  # a small data set, logged once an epoch anyway
    "You're resuming from a checkpoint that ended before the epoch",  # the data module knows how far it had come
    "it is recommended to use `Trainer(devices=1",  # to measure each example once, as the data modules do
    "You are using a custom batch sampler",  # to predict: it gives every example once
)
say = rank_zero_only(console.say)  # once for all processes


def run(command: str, options: Sequence[str]) -> None:
    """Run ``fit``, ``validate``, ``test``, ``predict`` or ``export``.

    Raises:
        UserError: for a mistake in the options, the configuration, the checkpoint or the data, a file that cannot be
            written, or numbers that are not finite.
        Stopped: if a signal ends the training; ``last.ckpt`` is then where it stopped.
        KeyboardInterrupt: if the user interrupts before or after the training itself.
    """
    _quieten()
    cells.load_entry_points()
    given = with_existing_configs(options)
    arguments = with_resumed_run(given) if command == "fit" else with_run_config(command, given)
    try:
        CLI(command, arguments).execute()
    except (ArgumentError, DataError) as error:
        sentence = plain_sentence(str(error))
        named = re.match(r"--[\w.]+", sentence)
        if arguments != given and named and not any(option.startswith(named[0]) for option in given):
            sentence += f"; it stands in {arguments[1]}, which another version of the program may have written"
        raise UserError(sentence) from error


def _quieten() -> None:
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{re.escape(message)}")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not re.search("Tip: For seamless|callbacks returned in", record.getMessage())  # of no use here
    )


def load_trained(path: Path, config: str | None = None) -> tuple[Task, DataModule]:
    """The task of a checkpoint with its weights, and its data, ready for validation.

    Args:
        path: The checkpoint.
        config: The configuration; None: that of the run that wrote the checkpoint.

    Raises:
        UserError: if the checkpoint or the configuration cannot be read, they contradict each other, or there are no
            data.
    """
    options = ["--ckpt_path", str(path), *(["--config", config] if config else [])]
    _quieten()
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # no word on devices and seeds: nothing is run
    cells.load_entry_points()
    try:
        cli = CLI("validate", with_run_config("validate", with_existing_configs(options)))
        checkpoint = read_checkpoint(path)
        check_fits(checkpoint, cli.model, path)
        cli.model.load_state_dict(checkpoint["state_dict"])
        cli.datamodule.prepare_data()
        cli.datamodule.setup("validate")
    except (ArgumentError, DataError) as error:
        raise UserError(plain_sentence(str(error))) from error
    return cli.model, cli.datamodule


class Trainer(LightningTrainer):
    """Lightning's Trainer and one more method, for LightningCLI to make a command of; CLI._export does its work."""

    def export(
        self, model: Task, datamodule: DataModule, ckpt_path: str | None = None, weights_only: bool | None = None
    ) -> None:
        """Write a trained model as a torch.export program (.pt2) or as ONNX (.onnx), checked against the model."""


class CLI(LightningCLI):
    """Parses and builds when it is made; :meth:`execute` then runs the command."""

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
                "use_distributed_sampler": False,  # the data modules share the examples among the processes themselves
            },
            seed_everything_default=0,
            parser_kwargs={"prog": "python -m app", **strict, command: dict(strict)},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=[command, *options],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # Task.keep_hyperparameters does it, for models built in Python too
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning calls it on the instance
        every = {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}
        return {self.command: every[self.command]}  # each parser takes a second to build

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Directory of the run, which fit makes; default: runs/CONFIG_NAME/TIME.",
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Run directory to go on with; further options may change the trainer's limits only.",
        )
        parser.add_argument(
            "--save_every",
            type=PositiveInt | None,
            default=None,
            help="Optimiser steps between checkpoints within an epoch; by default there is one after each epoch.",
        )
        parser.add_argument(
            "--observe", type=bool, default=True, help="Pictures, gradient norms and throughput in TensorBoard."
        )
        parser.add_argument(
            "--probe_every",
            type=NonNegativeInt,
            default=100,
            help="Optimiser steps between two measurements of the gradient at each time step; 0: none.",
        )
        parser.add_argument(
            "--stop_when_solved",
            type=bool,
            default=False,
            help="End the training once the validation loss is below the margin at which the data count as solved.",
        )
        parser.add_argument("--output", type=str | None, default=None, help="File that predict or export writes.")
        for size in linked_sizes():
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for subparser in self._subcommand_parsers.values():
            subparser.set_defaults(weights_only=True)  # a checkpoint is data, never code

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # Lightning warns where sys.argv is not what is parsed
        options = self.config[self.command]
        for config in options.config or []:
            for name in yaml.safe_load(config.read_text()) or {}:
                if name not in options:  # the parser refuses it only where it holds something
                    raise UserError(f"--{name} is not known; it stands in {config}; --help shows every option")

    def _parse_ckpt_path(self) -> None:
        """Keep the options of the command line: Lightning would put the checkpoint's over them without a word."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Leave the running to :meth:`execute`."""

    def instantiate_classes(self) -> None:
        self.options = self.config[self.subcommand]
        self.run_directory: RunDirectory | None = None
        self.solved = Solved(self.options.stop_when_solved)
        model, data = (class_at(self.options[name].class_path) for name in ("model", "data"))
        check_sizes(model, data)
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, OSError) as error:
            raise UserError(plain_sentence(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> LightningTrainer:
        trainer = self._trainer(**kwargs)
        leave_signals_alone(trainer)
        return trainer

    def _trainer(self, **kwargs: Any) -> LightningTrainer:
        given = self.config_init[self.subcommand].trainer
        kwargs["plugins"] = [*_listed(given.plugins), CheckpointFiles()]
        callbacks = [*_listed(given.callbacks), *([] if given.enable_progress_bar is False else [ProgressBar()])]
        if self.subcommand != "fit":
            self.save_config_callback = None
            return super().instantiate_trainer(**kwargs, logger=False, callbacks=callbacks, enable_checkpointing=False)
        if not given.fast_dev_run:
            resumed = self.options.resume
            self.run_directory = (
                RunDirectory(Path(resumed)) if resumed else RunDirectory.new(self.options.run_dir, self._config_name())
            )
            self.save_config_kwargs = {"run": self.run_directory}
            own = run_callbacks(
                self.model,
                self.run_directory,
                self.options.observe,
                self.options.probe_every,
                self.options.save_every,
            )
            callbacks += [self.solved, *own]  # what was solved belongs into the checkpoint of its step
            kwargs["default_root_dir"] = str(self.run_directory.path)
            if given.logger in (None, True):
                # what was shown after the checkpoint is shown again
                purge = {"purge_step": read_checkpoint(Path(self.options.ckpt_path))["global_step"]} if resumed else {}
                kwargs["logger"] = TensorBoardLogger(
                    self.run_directory.path, name="", version="tensorboard", default_hp_metric=False, **purge
                )
        return super().instantiate_trainer(**{**kwargs, "callbacks": callbacks})

    def execute(self) -> None:
        """Run the command that was parsed."""
        end_with_first(self._launched(), LostProcessError.status)
        if self.options.get("resume"):
            check_unchanged(
                RunDirectory(Path(self.options.resume)),
                dump_config(self._parser(self.subcommand), self.options),
                self.model,
                self.datamodule,
            )
        if self.options.ckpt_path:
            path = Path(self.options.ckpt_path)
            check_fits(read_checkpoint(path), self.model, path)
        try:
            getattr(self, f"_{self.subcommand}")()
        except Stopped as stopped:
            say(f"{stopped}{self._going_on()}")
            if not self._launched():  # else, if it failed, Lightning would kill the first process
                raise
        except DivergenceError as error:
            last = self.run_directory.last if self.run_directory else None
            kept = (
                f"; the last good checkpoint: {last}" if last and last.exists() else "; no checkpoint was written yet"
            )
            raise DivergenceError(f"{error}{kept}") from error
        except SystemExit as error:  # Lightning's way to end after Ctrl-C
            raise KeyboardInterrupt from error
        except RuntimeError as error:
            if self.trainer.world_size == 1 or not re.search("gloo|NCCL|Broken pipe|by peer", str(error)):
                raise
            raise LostProcessError(
                f"process {self.trainer.global_rank} has lost another one of the {self.trainer.world_size}"
                f"{self._going_on()}"
            ) from error

    def _going_on(self) -> str:
        return f"; go on with:  python -m app fit --resume {self.run_directory.path}" if self.run_directory else ""

    def _launched(self) -> bool:
        """Whether this process is one that Lightning has started from the first one of the machine."""
        environment = getattr(self.trainer.strategy, "cluster_environment", None)
        return self.trainer.local_rank > 0 and isinstance(environment, LightningEnvironment) and FIRST in os.environ

    def _fit(self) -> None:
        if self.options.stop_when_solved and self.datamodule.solved_below is None:
            raise UserError(f"stop_when_solved is true, but {type(self.datamodule).__name__} has no margin for it")
        run = self.run_directory
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        cell = self.model.cell
        say(f"{type(self.model).__name__} with {type(cell).__name__}({cell.extra_repr()})")
        say(f"{parameters:,} parameters, seed {self._seed()}")
        for config in self.options.config or []:
            for dropped in dropped_arguments(yaml.safe_load(config.read_text()) or {}, self.options.as_dict()):
                say(f"left out: {dropped}")
        for note in self.datamodule.notes:
            say(note)
        if self.datamodule.chosen_on_test:
            say("there is no validation split: what is called validation below is measured on the test set")
        if run:
            say(f"run directory: {run.path}\nwatch it with:  tensorboard --logdir {run.path}")
        self.trainer.fit(self.model, self.datamodule, ckpt_path=self.options.ckpt_path, weights_only=True)
        if run is None or not run.best.exists():
            return  # a trial run without validation: nothing to choose, nothing to report
        seconds = next(kept.seconds for kept in self.trainer.checkpoint_callbacks if isinstance(kept, LastCheckpoint))
        metrics = self._final_metrics(run)
        baselines = self.datamodule.baselines()
        results = {
            **metrics,
            "baselines": baselines,
            **self._whether_solved(metrics),
            "notes": self.datamodule.notes,
            "chosen_on": CHOSEN_ON[self.datamodule.chosen_on_test],
            "monitor": self.model.monitor,
            "best_epoch": read_checkpoint(run.best)["epoch"],
            "epochs": self.trainer.current_epoch,
            "seed": self._seed(),
            "parameters": parameters,
            "seconds": round(seconds, 1),
            "task": type(self.model).__name__,
            "cell": self.model.hparams["cell"],
            "data": type(self.datamodule).__name__,
            "preparation": self.datamodule.description,
            "device": str(self.trainer.strategy.root_device),
            "precision": str(self.trainer.precision),
            "versions": versions(),
        }
        if self.trainer.is_global_zero:
            write_results(run, results)
        self._log_hyperparameters(metrics)
        beside = {f"baseline: {name}": self.model.figures(loss) for name, loss in baselines.items()}
        say(f"\n{metrics_table(metrics | beside)}\n")
        if "solved" in results:
            say(_solved_in_words(results, metrics["test"]["loss"]))
        say(f"best epoch {results['best_epoch']} of {results['epochs']} by {self.model.monitor}, {seconds:.0f} s")
        say(f"chosen on {results['chosen_on']}")
        for note in self.datamodule.notes:
            say(note)
        say(f"best checkpoint:  {run.best}\nresults:          {run.results}")
        say(f"TensorBoard:      tensorboard --logdir {run.path}")

    def _validate(self) -> None:
        say(metrics_table(self._measure("validate", Path(self.options.ckpt_path))))

    def _test(self) -> None:
        say(metrics_table(self._measure("test", Path(self.options.ckpt_path))))

    def _predict(self) -> None:
        output = Path(self.options.output or "predictions.csv")
        check_output(output)
        checkpoint = self.options.ckpt_path
        batches: Any = self.trainer.predict(self.model, self.datamodule, ckpt_path=checkpoint, weights_only=True)
        batches = every_prediction(batches)
        if self.trainer.is_global_zero:
            say(f"{write_predictions(self.model.readable(batches), output):,} predictions: {output}")
            if summary := self.model.sum_up(batches):
                say(summary)

    def _export(self) -> None:
        output = Path(self.options.output or "model.pt2")
        self.model.load_state_dict(read_checkpoint(Path(self.options.ckpt_path))["state_dict"])
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        example = next(iter(self.datamodule.test_dataloader()))["inputs"]
        if not example.is_floating_point():
            name = type(self.model).__name__
            raise UserError(f"{name} reads words, and only models of sequences of numbers are exported")
        error = export(self.model, example, output)
        say(f"{output}: equal to the model within {error:.1e} of its largest output")

    def _measure(self, command: str, checkpoint: Path) -> dict[str, dict[str, float]]:
        """Metrics of the checkpoint on the ``validate`` or ``test`` data, by part."""
        measure = getattr(self.trainer, command)
        metrics = measure(self.model, self.datamodule, ckpt_path=str(checkpoint), weights_only=True, verbose=False)
        return split_metrics(metrics[0])

    def _final_metrics(self, run: RunDirectory) -> dict[str, dict[str, float]]:
        """Figures of the best epoch; where it was chosen on the test set, apart from those of the last epoch."""
        if self.datamodule.chosen_on_test:
            best = self._measure("test", run.best)["test"]
            return self._measure("test", run.last) | {"best_test": best}
        return self._measure("validate", run.best) | self._measure("test", run.best)

    def _whether_solved(self, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
        """Whether the test loss is below the data's margin, and when the validation loss was first; else nothing."""
        margin = self.datamodule.solved_below
        if margin is None:
            return {}
        solved = metrics["test"]["loss"] < margin
        return {"solved": solved, "solved_below": margin, "solved_at_step": self.solved.step}

    def _log_hyperparameters(self, metrics: dict[str, dict[str, float]]) -> None:
        """Fill TensorBoard's table of hyperparameters, with the metric that sums up the run."""
        part, _, metric = self.model.monitor.partition("/")
        if self.datamodule.chosen_on_test:
            part = "best_test"
        hyperparameters = flat_hyperparameters(self.model.hparams)
        hyperparameters |= {"data": type(self.datamodule).__name__, "seed": self._seed()}
        hyperparameters |= self.datamodule.description
        if isinstance(self.trainer.logger, TensorBoardLogger):
            best = {f"best/{part}/{metric}": metrics[part][metric]}
            self.trainer.logger.log_hyperparams(hyperparameters, best)
            self.trainer.logger.save()

    def _seed(self) -> int | None:
        seed = os.environ.get("PL_GLOBAL_SEED")
        return None if seed is None else int(seed)

    def _config_name(self) -> str:
        """Name of the first configuration file, for the default run directory."""
        configs = self.options.config or []
        return Path(str(configs[0])).stem if configs else "run"


def _solved_in_words(results: dict[str, Any], loss: float) -> str:
    step = results["solved_at_step"]
    on_validation = "not on validation" if step is None else f"on validation after step {step:,}"
    return (
        f"{'solved' if results['solved'] else 'not solved'}: the test loss is {loss:.4g}, below "
        f"{results['solved_below']:.4g} is expected ({on_validation})"
    )


def _listed(given: Any) -> list[Any]:
    """What the Trainer takes as nothing, as one or as several, as a list."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
