"""Classes that a checkpoint may name, and the configuration that it must agree with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from app.commands.main import main
from app.errors import UserError
from app.tasks import SequenceClassifier


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cell", {"class_path": "subprocess.getoutput", "init_args": {"cmd": "touch made_by_a_checkpoint"}}),
        ("cell", {"class_path": "os.mkdir", "init_args": {}}),
        ("optimizer", {"class_path": "not_imported.Optimizer", "init_args": {}}),
        ("_instantiator", "subprocess.getoutput"),
    ],
)
def test_checkpoint_can_name_only_cells_and_optimizers(name, value, trained):
    Path("not_imported.py").write_text("open('made_by_a_checkpoint', 'w')")
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"][name] = value
    torch.save(checkpoint, "changed.ckpt")
    with pytest.raises(UserError, match=r"of the checkpoint must be an imported subclass|must be instantiated by"):
        SequenceClassifier.load_from_checkpoint("changed.ckpt", weights_only=True)
    assert not Path("made_by_a_checkpoint").exists()


@pytest.mark.parametrize("missing", ["global_step", "pytorch-lightning_version"])
def test_checkpoint_without_a_required_entry_is_refused(missing, trained, capsys):
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    del checkpoint[missing]
    torch.save(checkpoint, "changed.ckpt")
    assert main(["test", "--config", str(trained / "config.yaml"), "--ckpt_path", "changed.ckpt"]) == 2
    assert "changed.ckpt' is not a checkpoint of this program" in capsys.readouterr().err


def test_edited_configuration_of_a_run_is_refused_on_resume(trained, capsys):
    shutil.copytree(trained, "run")
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.5
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--resume", "run"]) == 2
    assert "optimizer.init_args.lr is 0.5, but 0.02 in the checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_step": None}, "is not a checkpoint of this program: it has no valid global_step"),
        ({"pytorch-lightning_version": None}, "it has no valid pytorch-lightning_version"),
        ({"state_dict": 3}, "it has no valid state_dict"),
        (
            {"state_dict": {"head.weight": torch.eye(3).to_sparse()}},
            "dense weights, got torch.sparse_coo for head.weight",
        ),
        ({"optimizer_states": None}, "the checkpoint cannot be restored: TypeError"),
        ({"pytorch-lightning_version": "none"}, "the checkpoint cannot be restored: InvalidVersion"),
        ({"random_states": 3}, "the checkpoint cannot be restored: TypeError"),
        ({"random_states": [{}]}, "the checkpoint cannot be restored: its random_states are invalid: no 'python'"),
    ],
)
def test_checkpoint_with_wrong_entries_is_refused_in_one_line(changes, message, trained, capsys):
    shutil.copytree(trained, "run")
    path = Path("run/checkpoints/last.ckpt")
    torch.save(torch.load(path, weights_only=True) | changes, path)
    assert main(["fit", "--resume", "run"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize("name", ["loops", "lr_schedulers", "optimizer_states", "callbacks", "random_states", "Digits"])
def test_checkpoint_without_an_entry_that_lightning_may_ignore_is_not_resumed(name, trained, capsys):
    shutil.copytree(trained, "run")
    path = Path("run/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    emptied = type(checkpoint.pop(name))()
    for entries in ({}, {} if name == "lr_schedulers" else {name: emptied}):
        torch.save(checkpoint | entries, path)
        assert main(["fit", "--resume", "run"]) == 2
    assert f"must contain {name} to be resumed" in capsys.readouterr().err
