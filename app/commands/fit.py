"""``python -m app fit``: train, choose the best epoch on the validation set, evaluate on the test set once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pytorch_lightning.loggers import TensorBoardLogger

from app.callbacks.checkpoints import LastCheckpoint
from app.commands.console import metrics_table
from app.commands.error_messages import dropped_arguments
from app.commands.evaluate import evaluate
from app.commands.parsing import CommandLine
from app.commands.session import echo, run
from app.diagnostics.probe import outermost_cells
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from app.runs.results import flat_hyperparameters, versions, write_results
from app.runs.run_directory import RunDirectory
from app.runs.training_flops import training_flops
from cells.denormals import flushes_denormals
from datamodules.base import run_seed

Metrics = dict[str, dict[str, float]]
CHOSEN_ON = {
    False: "the validation set; the test set was read once",
    True: "the test set, because there is no validation split: 'test' is measured after the last epoch, 'best_test' "
    "after the epoch that is best on the test set itself, so it is optimistic",
}


def fit(options: Sequence[str]) -> None:
    """Run the command ``fit``."""
    run("fit", options, _fit)


def _fit(line: CommandLine) -> None:
    if line.options.stop_when_solved and line.datamodule.solved_below is None:
        raise UserError(f"stop_when_solved is true, but {type(line.datamodule).__name__} defines no margin for it")
    directory = line.run_directory
    if directory is None:  # --trainer.fast_dev_run
        _announce(line)
        _train(line)
        echo("a trial run: no checkpoint and no results were written")
        return
    with directory.locked(new=not line.options.resume):
        _announce(line)
        _train(line)
        _report(line, directory)


def _train(line: CommandLine) -> None:
    line.trainer.fit(line.model, line.datamodule, ckpt_path=line.options.ckpt_path, weights_only=True)


def _announce(line: CommandLine) -> None:
    """Print what will be trained, and what of the configuration files is not used."""
    cells = outermost_cells(line.model).values()
    described = dict.fromkeys(f"{type(cell).__name__}({cell.extra_repr()})" for cell in cells)
    echo(" with ".join(filter(None, [type(line.model).__name__, ", ".join(described)])))
    echo(f"{_parameters(line):,} parameters, seed {run_seed()}")
    for config in line.options.config or []:
        for dropped in dropped_arguments(yaml.safe_load(config.read_text()) or {}, line.options.as_dict()):
            echo(f"dropped from {config}: {dropped}")
    for note in line.datamodule.notes:
        echo(note)
    if line.datamodule.chosen_on_test:
        echo("there is no validation split: validation metrics are measured on the test set")
    if line.run_directory:
        echo(f"run directory: {line.run_directory.path}")
        if _uses_tensorboard(line):
            echo(f"watch it with:  tensorboard --logdir {line.run_directory.path}")


def _report(line: CommandLine, directory: RunDirectory) -> None:
    """Evaluate the best epoch, write ``results.json`` and print the metrics.

    Without a validation there is no best epoch. This is reported, because it leaves the run without results.
    """
    if line.trainer.global_step == 0:
        echo("nothing was trained: the limits of the trainer allow no optimizer step")
    if not directory.best.exists():
        echo("no validation was run, so no best checkpoint was chosen, the test set was not read and there are no "
             "results")  # fmt: skip
        return
    seconds = _seconds(line)  # now, because loading the best checkpoint restores its time
    metrics = _final_metrics(line, directory)
    if "test" not in metrics:
        echo("the test set was not read: limit_test_batches is 0")
    baselines = line.datamodule.baselines()
    results = {
        **metrics,
        "baselines": baselines,
        **_solved(line, metrics),
        "notes": line.datamodule.notes,
        "chosen_on": CHOSEN_ON[line.datamodule.chosen_on_test],
        "monitor": line.model.monitor,
        "best_epoch": read_checkpoint(directory.best)["epoch"],
        "epochs": line.trainer.current_epoch,
        "seed": run_seed(),
        "parameters": _parameters(line),
        "flops": training_flops(line.model, line.datamodule),
        "seconds": round(seconds, 1),
        "task": type(line.model).__name__,
        "cell": line.model.hparams.get("cell"),  # a task of a third party may keep none
        "data": type(line.datamodule).__name__,
        "preparation": line.datamodule.description,
        "device": str(line.trainer.strategy.root_device),
        "precision": str(line.trainer.precision),
        "flush_denormal": flushes_denormals(),
        "versions": versions(),
    }
    if line.trainer.is_global_zero:
        write_results(directory, results)
    _log_hyperparameters(line, metrics)
    _print_results(line, directory, results, metrics)


def _print_results(line: CommandLine, directory: RunDirectory, results: dict[str, Any], metrics: Metrics) -> None:
    baselines = {f"baseline: {name}": line.model.metrics_from_loss(loss) for name, loss in results["baselines"].items()}
    echo(f"\n{metrics_table(metrics | baselines)}\n")
    if "solved" in results:
        step = results["solved_at_step"]
        when = "the validation loss never was" if step is None else f"the validation loss was after step {step:,}"
        echo(
            f"{'solved' if results['solved'] else 'not solved'}: the test loss is {metrics['test']['loss']:.4g}; below "
            f"{results['solved_below']:.4g} counts as solved ({when})"
        )
    epochs = f"best epoch {results['best_epoch']} of {results['epochs']}"
    echo(f"{epochs} by {line.model.monitor}, {results['seconds']:.0f} s")
    echo(f"chosen on {results['chosen_on']}")
    for note in line.datamodule.notes:
        echo(note)
    echo(f"best checkpoint:  {directory.best}\nresults:          {directory.results}")
    if _uses_tensorboard(line):
        echo(f"TensorBoard:      tensorboard --logdir {directory.path}")


def _final_metrics(line: CommandLine, directory: RunDirectory) -> Metrics:
    """Return the metrics of the best epoch; those of the last epoch too if the best one was chosen on the test set."""
    if line.datamodule.chosen_on_test:
        best = evaluate(line, "test", directory.best).get("test", {})
        return evaluate(line, "test", directory.last) | {"best_test": best}
    return evaluate(line, "validate", directory.best) | evaluate(line, "test", directory.best)


def _solved(line: CommandLine, metrics: Metrics) -> dict[str, Any]:
    """Return whether the test loss is below the margin of the data, and when the validation loss first was."""
    margin = line.datamodule.solved_below
    if margin is None or "test" not in metrics:
        return {}
    solved = metrics["test"]["loss"] < margin
    return {"solved": solved, "solved_below": margin, "solved_at_step": line.solved.step}


def _log_hyperparameters(line: CommandLine, metrics: Metrics) -> None:
    """Give all loggers the hyperparameters, with the metric that sums up the run, and its directory."""
    split, _, metric = line.model.monitor.partition("/")
    measured = metrics.get("best_test" if line.datamodule.chosen_on_test else split, {})
    hyperparameters = flat_hyperparameters(line.model.hparams)
    hyperparameters |= {"data": type(line.datamodule).__name__, "seed": run_seed()}
    hyperparameters |= line.datamodule.description
    if metric not in measured:
        return
    best = {f"{split}/best_{metric}": measured[metric]}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in hyperparameters.items()}
    for logger in line.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            # a resumed run would add another one at step 0
            logger.log_hyperparams(hyperparameters, best, line.trainer.global_step)
        else:
            logger.log_hyperparams(plain | {"run_directory": line.trainer.default_root_dir})
            logger.log_metrics(best, line.trainer.global_step)
        logger.save()


def _uses_tensorboard(line: CommandLine) -> bool:
    return any(isinstance(logger, TensorBoardLogger) for logger in line.trainer.loggers)


def _parameters(line: CommandLine) -> int:
    return sum(parameter.numel() for parameter in line.model.parameters())


def _seconds(line: CommandLine) -> float:
    return next(kept.seconds for kept in line.trainer.checkpoint_callbacks if isinstance(kept, LastCheckpoint))
