"""The regularization arguments of the language model: range, penalties, command line and YAML."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml
from helpers.paths import ROOT

from app.commands.main import main
from app.tasks import LanguageModel
from app.tasks.regularization import Regularization


@pytest.mark.parametrize(
    ("name", "value"),
    [(field.name, value) for field in fields(Regularization) for value in (-0.1, float("nan"))]
    + [(field.name, 1.0) for field in fields(Regularization) if field.name.endswith("dropout")],
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} .*\[0, "):
        Regularization(**{name: value})


def test_penalties_are_those_of_the_formula():
    y, dropped = torch.randn(2, 5, 3).double(), torch.randn(2, 5, 3).double()
    activation, temporal = Regularization(
        activation_regularization=0.5, temporal_activation_regularization=0.25
    ).penalties(y, dropped)
    assert activation.item() == pytest.approx(0.5 * (dropped.numpy() ** 2).mean())
    assert temporal.item() == pytest.approx(0.25 * ((y[:, 1:] - y[:, :-1]).numpy() ** 2).mean())
    assert Regularization(activation_regularization=0, temporal_activation_regularization=0).penalties(y, y) == []


def test_help_shows_arguments_of_the_base_class_and_of_the_group(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--model.help", "LanguageModel"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for argument in ("optimizer", "lr_schedule", "orthogonal_optimizer", "hidden_sizes"):
        assert f"--model.{argument} " in shown
    for name, default in asdict(Regularization()).items():
        _, _, rest = " ".join(shown.split("Dropout and activation penalties")[1].split()).partition(f".{name} ")
        assert f"default: {default})" in rest.split("--model")[0]


def test_options_change_one_argument_of_the_group(trained_language_model):
    config = yaml.safe_load((trained_language_model / "config.yaml").read_text())
    small = yaml.safe_load((ROOT / "configs" / "ptb" / "small.yaml").read_text())
    group = config["model"]["init_args"]["regularization"]
    assert group == small["model"]["init_args"]["regularization"]
    checkpoint = trained_language_model / "checkpoints/best.ckpt"
    task = LanguageModel.load_from_checkpoint(checkpoint, weights_only=True)
    assert asdict(task.regularization) == group
    options = ["--config", str(trained_language_model / "config.yaml"), "--model.regularization.word_dropout", "1.5"]
    assert main(["fit", *options, "--run_dir", str(Path("run"))]) == 2


def test_invalid_option_is_reported_in_one_line(capsys, trained_language_model):
    options = ["--config", str(trained_language_model / "config.yaml"), "--model.regularization.word_dropout", "1.5"]
    assert main(["fit", *options]) == 2
    error = capsys.readouterr().err
    assert "word_dropout" in error
    assert "[0, 1)" in error
    assert "Traceback" not in error
