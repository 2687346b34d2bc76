"""The command line: options, files and messages."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.paths import QUICKSTART, ROOT

from app.callbacks.checkpoints import LastCheckpoint
from app.commands.main import main
from app.commands.predict import write_predictions
from app.tasks import SequenceClassifier

SMALL = ["--model.hidden_size", "8", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
OWN_CELL = '''
import torch
from torch import nn
from cells import Cell


class Leaky(Cell):
    """h_t = leak h_{t-1} + (1 - leak) tanh(W x_t)."""

    def __init__(self, input_size: int, hidden_size: int, *, leak: float = 0.5) -> None:
        super().__init__(input_size, hidden_size)
        self.leak = leak
        self.weight = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size):
        return self.weight.weight.new_zeros(batch_size, self.hidden_size)

    def step(self, x_BI, state):
        h_BH = self.leak * state + (1 - self.leak) * torch.tanh(self.weight(x_BI))
        return h_BH, h_BH
'''


def fit(*options: str) -> int:
    return main(["fit", "--config", QUICKSTART, *SMALL, "--run_dir", "run", *options])


def results(run: Path = Path("run")) -> dict:
    return json.loads((run / "results.json").read_text())


def test_run_directory_contains_all_files_of_the_run(trained):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "gradients.npz",
        "results.json",
        "tensorboard",
    }
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert any(path.name.startswith("events") for path in (trained / "tensorboard").iterdir())
    found = results(trained)
    assert set(found["validation"]) == set(found["test"]) == {"accuracy", "loss"}
    assert found["seed"] == 0
    assert found["epochs"] == 2
    assert found["best_epoch"] in (0, 1)
    assert found["parameters"] == 4 * 16 * (1 + 16 + 2) + 16 * 10 + 10
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_default_run_directory_names_configuration_cell_and_seed():
    assert main(["fit", "--config", QUICKSTART, *SMALL]) == 0
    (run,) = Path("runs/quickstart").iterdir()
    assert re.fullmatch(r"MomentumLSTM-seed0-[\d_-]+", run.name)
    assert (run / "results.json").is_file()


def test_configuration_of_a_run_repeats_it(trained):
    options = ["--trainer.enable_progress_bar", "false", "--run_dir", "again"]
    assert main(["fit", "--config", str(trained / "config.yaml"), *options]) == 0
    assert results(Path("again"))["test"] == results(trained)["test"]


def test_best_checkpoint_is_the_best_validation_epoch(trained):
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    monitor = next(state for name, state in checkpoint["callbacks"].items() if "validation/loss" in name)
    assert checkpoint["epoch"] == results(trained)["best_epoch"]
    assert monitor["best_model_score"].item() == pytest.approx(results(trained)["validation"]["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "class_path", "init_args"),
    [
        (["--model.cell", "GRU"], "cells.GRU", {"bias": True}),
        (["--model.cell", "MomentumGRU", "--model.cell.momentum", "0.9"], "cells.MomentumGRU", {"momentum": 0.9}),
        (["--model.cell.init", "published"], "cells.MomentumLSTM", {"momentum": 0.3, "init": "published"}),
        (["--model.cell", "cells.cores.lstm.LSTM"], "cells.LSTM", {"forget_bias": None}),
    ],
)
def test_any_registered_cell_in_one_argument(options, class_path, init_args):
    assert fit(*options) == 0
    saved = yaml.safe_load(Path("run/config.yaml").read_text())["model"]["init_args"]["cell"]
    assert saved["class_path"] == class_path
    assert init_args.items() <= saved["init_args"].items()


def test_arguments_that_another_cell_does_not_accept_are_reported(capsys):
    assert fit("--model.cell", "GRU") == 0
    assert f"dropped from {QUICKSTART}: momentum, step_size (not an argument of GRU)" in capsys.readouterr().out


@pytest.mark.slow  # tests/project/test_readme.py does so by default
def test_own_cell_by_its_dotted_path():
    Path("my_cells.py").write_text(OWN_CELL)
    command = [sys.executable, "-m", "app", "fit", "--config", QUICKSTART, *SMALL, "--run_dir", "run"]
    options = ["--model.cell", "my_cells.Leaky", "--model.cell.leak", "0.9"]
    subprocess.run([*command, *options], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert results()["cell"] == {"class_path": "my_cells.Leaky", "init_args": {"leak": 0.9}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.cell.momentum", "1.5"], "momentum must be in [0, 1), got 1.5"),
        (["--model.cell.momentum", "-1"], "momentum must be in [0, 1), got -1.0"),
        (["--model.cell.momentum", "abc"], "--model.cell.momentum must be a number, got 'abc'"),
        (["--model.cell.engine", "warp"], "--model.cell.engine must be one of 'auto', 'reference'"),
        (["--model.cell", "MomentumLSTN"], "there is no cell 'MomentumLSTN'; known cells, closest first: MomentumLSTM"),
        (["--model.cell", "nowhere.Cell"], "'nowhere.Cell' cannot be imported: No module named 'nowhere'"),
        (["--model.cell", "torch.nn.LSTM"], "'torch.nn.LSTM' is not a cell"),
        (
            ["--model.cell.momentun", "0.5"],
            "MomentumLSTM has no argument 'momentun'. Its arguments, closest first: momentum",
        ),
        (["--model.hiden_size", "8"], "has no argument 'hiden_size'. Its arguments, closest first: hidden_size"),
        (["--model.hidden_size", "wide"], "--model.hidden_size must be an integer, got 'wide'"),
        (["--model.hidden_size", "0"], "hidden_size must be a positive integer, got 0"),
        (
            ["--model.lr_schedule", "linear"],
            "--model.lr_schedule must be one of 'constant', 'one_cycle', 'cosine', got 'linear'",
        ),
        (
            ["--model.optimizer", "Adamm"],
            "--model.optimizer: there is no class 'Adamm'. Known, closest first: Adam",
        ),
        (["--data", "Digit"], "--data: there is no class 'Digit'. Known, closest first: Digits"),
        (["--data.batch_size", "0"], "batch_size must be an integer of at least 1, got 0"),
        (["--trainer.max_epoch", "3"], "Trainer has no argument 'max_epoch'. Its arguments, closest first: max_epochs"),
        (["--trainer.max_epochs", "few"], "--trainer.max_epochs must be an integer"),
        (["--nonsense", "3"], "--nonsense is unknown"),
        (["--config", "absent.yaml"], "config 'absent.yaml' does not exist"),
        (["--config", "broken.yaml"], "config 'broken.yaml' is not readable YAML"),
        (["--config", "binary.yaml"], "config 'binary.yaml' is not readable YAML"),
        (["--config", "mistyped.yaml"], "--modle is unknown"),
        (["--config", "mistyped-empty.yaml"], "--modle is unknown"),
        (["--ckpt_path", "absent.ckpt"], "fit accepts --ckpt_path ('absent.ckpt') only with --resume RUN"),
    ],
)
def test_invalid_option_gives_one_line_and_status_2(options, message, capsys):
    Path("broken.yaml").write_text("model: [1, 2\n")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    Path("mistyped.yaml").write_text("modle: 3\n")
    Path("mistyped-empty.yaml").write_text("modle: {}\n")
    assert fit(*options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    said = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert not Path("run/checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fot"],
            "command must be one of fit, validate, test, predict, export, generate, diagnose, prepare, sweep, report, "
            "cells",
        ),
        (["fit"], "--data and --model must be given"),
        (["test"], "--ckpt_path must be given"),
        (["test", "--ckpt_path", "absent.ckpt"], "'absent.ckpt' does not exist"),
        (["cells", "LSTN"], "there is no cell 'LSTN'; known cells, closest first: LSTM"),
        (["cells", "--hidden_size", "0"], "--hidden_size must be above 0, got 0"),
    ],
)
def test_invalid_command_line(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_traceback_on_demand(capsys):
    assert fit("--model.cell.momentum", "1.5", "--traceback") == 2
    assert "Traceback" in capsys.readouterr().err


def test_run_directory_with_a_run_is_refused(trained, capsys):
    assert fit("--run_dir", str(trained)) == 2
    assert "contains a run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation_of_a_checkpoint_gives_the_metrics_of_the_run(command, trained, capsys):
    assert main([command, "--ckpt_path", str(trained / "checkpoints/best.ckpt")]) == 0
    part = {"validate": "validation", "test": "test"}[command]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(part))
    loss, accuracy = map(float, row.split()[1:])
    expected = results(trained)[part]
    assert loss == pytest.approx(expected["loss"], abs=1e-4)
    assert accuracy == pytest.approx(expected["accuracy"], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.cell", "GRU"],
            "cell.class_path is 'cells.GRU', but 'cells.MomentumLSTM' in the checkpoint",
        ),
        (["--model.cell.momentum", "0.1"], "cell.init_args.momentum is 0.1, but 0.3 in the checkpoint"),
        (["--model.hidden_size", "17"], "hidden_size is 17, but 16 in the checkpoint"),
    ],
)
def test_checkpoint_that_contradicts_the_options_is_refused(options, message, trained, capsys):
    assert main(["test", "--ckpt_path", str(trained / "checkpoints/best.ckpt"), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_damaged_checkpoint_is_refused(damage, trained, capsys):
    path = Path("damaged.ckpt")
    if damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        whole = (trained / "checkpoints/best.ckpt").read_bytes()
        path.write_bytes(whole[: len(whole) // 2 if damage == "truncated" else 0])
    assert main(["test", "--config", QUICKSTART, "--ckpt_path", str(path)]) == 2
    assert "damaged.ckpt" in capsys.readouterr().err


def test_predictions_are_those_of_the_model(trained):
    checkpoint = str(trained / "checkpoints/best.ckpt")
    assert main(["predict", "--ckpt_path", checkpoint, "--output", "predictions.csv"]) == 0
    with Path("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360
    right = sum(row["target"] == row["prediction"] for row in rows)
    assert right / 360 == pytest.approx(results(trained)["test"]["accuracy"], abs=1e-5)
    for row in rows[:20]:
        probabilities = [float(row[f"probability_{label}"]) for label in range(10)]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert max(range(10), key=probabilities.__getitem__) == int(row["prediction"])


def test_predictions_as_parquet(trained):
    parquet = pytest.importorskip("pyarrow.parquet")
    checkpoint = str(trained / "checkpoints/best.ckpt")
    assert main(["predict", "--ckpt_path", checkpoint, "--output", "predictions.parquet"]) == 0
    table = parquet.read_table("predictions.parquet")
    assert table.num_rows == 360
    assert table.column_names[:3] == ["index", "target", "prediction"]


def test_texts_that_are_formulas_for_spreadsheets_have_an_apostrophe_in_csv():
    texts = ["=1+1", "+1", "-1", "@A1", "\t=1", "word", "'s", ""]
    columns = {"number": torch.arange(-4, 4), "word": texts}
    assert write_predictions([columns], Path("words.csv")) == len(texts)
    with Path("words.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["word"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@A1", "'\t=1", "word", "'s", ""]
    assert [int(row["number"]) for row in rows] == list(range(-4, 4))


def test_predict_refuses_another_format_before_any_work(trained, capsys):
    assert main(["predict", "--ckpt_path", str(trained / "checkpoints/best.ckpt"), "--output", "table.xls"]) == 2
    assert "output must end in .csv or .parquet, got 'table.xls'" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_exported_program_computes_the_model(ending, trained):
    if ending == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    checkpoint = str(trained / "checkpoints/best.ckpt")
    assert main(["export", "--ckpt_path", checkpoint, "--output", f"model.{ending}"]) == 0
    model = SequenceClassifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    inputs = torch.rand(5, 64, 1)
    if ending == "onnx":
        session = onnxruntime.InferenceSession("model.onnx")
        found = torch.as_tensor(session.run(None, {"inputs": inputs.numpy()})[0])
    else:
        found = torch.export.load("model.pt2").module()(inputs)
    torch.testing.assert_close(found, model(inputs), rtol=1e-4, atol=1e-5)


def test_export_refuses_another_format(trained, capsys):
    assert main(["export", "--ckpt_path", str(trained / "checkpoints/best.ckpt"), "--output", "model.h5"]) == 2
    assert "output must end in .pt2 (torch.export) or .onnx, got 'model.h5'" in capsys.readouterr().err
    assert not Path("model.h5").exists()


@pytest.mark.parametrize("output", ["/proc/model.pt2", "folder.pt2"])
def test_export_to_an_unwritable_place_gives_one_line(output, trained, capsys):
    Path("folder.pt2").mkdir()
    assert main(["export", "--ckpt_path", str(trained / "checkpoints/best.ckpt"), "--output", output]) == 2
    assert f"error: {output} cannot be written: " in capsys.readouterr().err


def test_cells_lists_every_cell_with_its_equation_and_count(capsys):
    assert main(["cells", "--input_size", "3", "--hidden_size", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("MomentumLSTM "))
    assert "built in" in row
    assert str(4 * 5 * (3 + 5 + 2)) in row
    assert "v_t = mu v_{t-1} + s a_t" in row
    assert next(line for line in lines if line.startswith("UnitaryRNN ")).split()[3] == "-"
    assert "- UnitaryRNN: hidden_size must be even" in "\n".join(lines)


def test_cells_describes_one(capsys):
    assert main(["cells", "MomentumGRU"]) == 0
    out = capsys.readouterr().out
    for argument in ("momentum", "step_size", "bias", "init", "engine"):
        assert f"--model.cell.{argument} " in out
    assert "\nEngine: fused\n" in out


def test_cells_names_the_operation_that_is_not_fused(capsys):
    assert main(["cells", "NRU"]) == 0
    assert "Engine: reference; it is not fused, because step uses aten.unsqueeze" in capsys.readouterr().out


def test_closed_output_gives_no_traceback():
    command = f"{sys.executable} -m app cells | head -n 1"
    run = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    assert run.stdout.startswith("cell")
    assert run.returncode in (0, 141)  # 0 where all of it went into the pipe before that was closed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_reaches_its_accuracy(seed):
    options = ["--seed_everything", str(seed), "--run_dir", "run", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", QUICKSTART, *options]) == 0
    assert results()["test"]["accuracy"] >= 0.93


def test_time_of_the_best_checkpoint_is_not_added_to_that_of_the_run(monkeypatch):
    monkeypatch.setattr(LastCheckpoint, "state_dict", lambda self: {"seconds": 1000.0})
    options = ["--model.hidden_size", "4", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", QUICKSTART, *options, "--run_dir", "run"]) == 0
    assert json.loads(Path("run/results.json").read_text())["seconds"] < 1000
