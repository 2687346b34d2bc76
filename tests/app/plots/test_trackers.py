"""Loggers other than TensorBoard: numbers, figures and hyperparameters of a run, and its run directory."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.paths import ROOT

from app.commands.main import main

TRAIN = ["--config", "configs/quickstart.yaml", "--model.hidden_size", "4", "--model.lr_schedule", "constant"]
TRAIN += [f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]
TRAIN += ["--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1"]
TRAIN += ["--trainer.log_every_n_steps", "1", "--probe_every", "1"]
EXPECTED = {"train/loss", "validation/loss", "test/accuracy", "gradient_norm/all", "validation/best_loss"}
EXPECTED |= {"gradient_through_time/slope", "dynamics/zero_units", "throughput/seconds_per_step"}
FILES = {"config.yaml", "checkpoints", "gradients.npz", "results.json"}
FIGURES = {"confusion", "examples", "gradient_through_time/cell"}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def fit(*logger: str) -> dict:
    """Train with a logger, and return the results."""
    assert main(["fit", *TRAIN, "--run_dir", "run", "--trainer.logger", *logger]) == 0
    assert {path.name for path in Path("run").iterdir()} >= FILES
    assert not Path("run/tensorboard").exists()
    return json.loads(Path("run/results.json").read_text())


def test_csv_has_all_numbers_and_hyperparameters(capsys):
    results = fit("CSVLogger", "--trainer.logger.save_dir", "logs")
    assert "tensorboard --logdir" not in capsys.readouterr().out
    folder = Path("logs/lightning_logs/version_0")
    rows = table(folder)
    assert set(rows[0]) >= EXPECTED
    (best,) = [float(row["validation/best_loss"]) for row in rows if row["validation/best_loss"]]
    assert best == pytest.approx(results["validation"]["loss"])
    hyperparameters = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert (hyperparameters["hidden_size"], hyperparameters["run_directory"]) == (4, "run")

    assert main(["fit", "--resume", "run", "--trainer.max_epochs", "2"]) == 0
    resumed = table(Path("logs/lightning_logs/version_1"))
    assert {row["epoch"] for row in resumed if row["train/loss"]} == {"1"}


def test_several_loggers_get_the_same_numbers():
    loggers = [
        {"class_path": "app.plots.tensorboard.RunLogger", "init_args": {"save_dir": "run", "name": "events"}},
        {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}},
    ]
    Path("loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    assert main(["fit", *TRAIN, "--config", "loggers.yaml", "--run_dir", "run"]) == 0
    assert set(table(Path("logs/lightning_logs/version_0"))[0]) >= EXPECTED
    assert list(Path("run/events").rglob("events.out.*"))


@pytest.mark.slow
def test_wandb_shows_numbers_figures_and_hyperparameters():
    pytest.importorskip("wandb")
    options = [*TRAIN, "--run_dir", "run", "--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "app", "fit", *options], check=True, env=environment)  # its end ends the run
    assert {path.name for path in Path("run").iterdir()} >= FILES
    (run,) = Path("wandb").glob("offline-run-*")
    (record,) = run.glob("*.wandb")
    content = record.read_bytes()
    assert {name for name in EXPECTED | {"hidden_size", "run_directory"} if name.encode() not in content} == set()
    images = {str(path.relative_to(run / "files/media/images")) for path in run.rglob("*.png")}
    assert all(any(image.startswith(f"{name}_") for image in images) for name in FIGURES)


@pytest.mark.slow
def test_mlflow_shows_numbers_figures_and_hyperparameters():
    mlflow = pytest.importorskip("mlflow")
    address = f"sqlite:///{Path.cwd()}/mlflow.db"
    results = fit("MLFlowLogger", "--trainer.logger.tracking_uri", address)
    client = mlflow.tracking.MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])
    assert set(run.data.metrics) >= EXPECTED
    assert run.data.metrics["validation/best_loss"] == pytest.approx(results["validation"]["loss"])
    assert (run.data.params["hidden_size"], run.data.params["run_directory"]) == ("4", "run")
    pictures = {name for name in FIGURES if client.list_artifacts(run.info.run_id, name)}
    assert pictures == FIGURES


def test_logger_that_cannot_be_built_gives_one_line(monkeypatch, capsys):
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", Missing())
    assert main(["fit", *TRAIN, "--run_dir", "run", "--trainer.logger", "WandbLogger"]) == 2
    assert "error: WandbLogger cannot be used: needs pip install wandb" in capsys.readouterr().err


class Missing:
    """A requirement that is not met."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "needs pip install wandb"
