"""The encoder that tasks share: several layers, two directions, padding, checkpoints and analysis.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from app.commands.export import write_program
from app.commands.main import main
from app.diagnostics.probe import Probe
from app.runs.training_flops import training_flops
from app.tasks import FrameClassifier, FrameRegressor, LanguageModel, SequenceClassifier, SequenceRegressor
from app.tasks.regularization import Regularization
from cells import GRU, LSTM, MomentumLSTM, Stack, flops
from datamodules import Digits

B, T, I, H = 3, 6, 2, 4  # noqa: E741
LENGTHS = torch.tensor([3, 6, 1])
DEEP = {"num_layers": 2, "residual": True, "norm": "layer", "dropout": 0.1}
BOTH = DEEP | {"bidirectional": True}
TASKS = {
    SequenceClassifier: {"num_classes": 5},
    FrameClassifier: {"num_classes": 5},
    SequenceRegressor: {"target_size": 5},
    FrameRegressor: {"target_size": 5},
}
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
NO_REGULARIZATION = Regularization(0, 0, 0, 0, 0, 0, 0)


def build(task, cell=LSTM, **options):
    return task(cell, input_size=I, hidden_size=H, **TASKS[task], **options)


def padded() -> torch.Tensor:
    return torch.randn(B, T, I).masked_fill(torch.arange(T)[:, None] >= LENGTHS[:, None, None], 1e3)


@pytest.mark.parametrize("task", TASKS)
def test_one_layer_is_the_plain_cell(task):
    torch.manual_seed(0)
    found = build(task, num_layers=1, residual=False, norm="none", dropout=0.0, bidirectional=False)
    torch.manual_seed(0)
    cell, head = LSTM(I, H), nn.Linear(H, 5)
    expected = {f"cell.{name}": value for name, value in cell.state_dict().items()}
    expected |= {f"head.{name}": value for name, value in head.state_dict().items()}
    assert list(found.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize("options", [{"num_layers": 2}, DEEP, BOTH], ids=["layers", "residual", "both"])
@pytest.mark.parametrize("task", TASKS)
def test_padded_sequences_equal_unpadded_runs(task, options):
    if task.causal and "bidirectional" in options:
        return
    model = build(task, **options).double().eval()
    inputs = padded().double()
    takes_lengths = task is not FrameRegressor
    found = model(inputs, LENGTHS) if takes_lengths else model(inputs)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(inputs[row : row + 1, :length])[0]
        valid = found[row, :length] if alone.dim() == 2 else found[row]
        torch.testing.assert_close(valid, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
def test_classifier_reads_the_last_states_of_torchs_bidirectional_lstm(lengths):
    model = build(SequenceClassifier, num_layers=2, bidirectional=True).double()
    reference = nn.LSTM(I, H, 2, batch_first=True, bidirectional=True).double()
    for direction, layers in {"": model.cell.layers, "_reverse": model.cell.reverse_layers}.items():
        for number, cell in enumerate(layers):
            for name, parameter in cell.named_parameters():
                getattr(reference, f"{name}_l{number}{direction}").data.copy_(parameter)
    inputs = padded().double()
    packed = inputs if lengths is None else pack_padded_sequence(inputs, lengths, True, enforce_sorted=False)
    _, (h, _) = reference(packed)
    expected = model.head(torch.cat([h[2], h[3]], -1))
    torch.testing.assert_close(model(inputs, lengths), expected, rtol=1e-12, atol=1e-12)


def test_causal_task_refuses_a_reverse_direction():
    with pytest.raises(ValueError, match=r"bidirectional must be False for FrameRegressor, .* later inputs, got True"):
        build(FrameRegressor, bidirectional=True)


def test_checkpoint_rebuilds_all_layers(tmp_path):
    task = SequenceClassifier(partial(MomentumLSTM, momentum=0.3), 1, 10, H, **BOTH)
    trainer = Trainer(**QUIET, max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    trainer.fit(task, Digits())
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    again = SequenceClassifier.load_from_checkpoint(tmp_path / "task.ckpt").to("cpu").eval()
    assert isinstance(again.cell, Stack)
    assert (again.hparams["num_layers"], again.hparams["dropout"]) == (2, 0.1)
    inputs = torch.rand(2, 64, 1)
    torch.testing.assert_close(again(inputs), task.to("cpu").eval()(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("task", [SequenceClassifier, FrameClassifier])
def test_exported_program_has_all_layers(task):
    assert write_program(build(task, GRU, **BOTH), torch.rand(2, T, I), Path("model.pt2")) < 1e-5


def test_flops_count_all_layers():
    data = Digits(batch_size=32)
    data.setup()
    found = training_flops(SequenceClassifier(LSTM, 1, 10, H, num_layers=2, bidirectional=True), data)
    first = flops(LSTM(1, H), 64, 32)
    second = flops(LSTM(2 * H, H), 64, 32, input_grad=True)
    head = 2 * 32 * 2 * H * 10
    assert found["forward"] == 2 * first.forward + 2 * second.forward + head
    assert found["backward"] == 2 * first.backward + 2 * second.backward + 2 * head


def test_probe_measures_each_layer_and_direction():
    """In the reverse direction, step 0 is the first step that its cell reads: the last one of the sequence."""
    task = build(SequenceClassifier, num_layers=2, bidirectional=True)
    batch = {"inputs": padded(), "targets": torch.tensor([0, 1, 2]), "lengths": LENGTHS}
    norms = Probe(batch).measure(task).norms
    cells = ["cell.layers.0", "cell.layers.1", "cell.reverse_layers.0", "cell.reverse_layers.1"]
    assert {name.rpartition("/")[0] for name in norms} == set(cells)
    assert all(norms[f"{cell}/h"].shape == (T,) and norms[f"{cell}/h"].any() for cell in cells)

    twin = build(SequenceClassifier, num_layers=2, bidirectional=True).double()
    twin.load_state_dict(task.state_dict())
    inputs = batch["inputs"].double().requires_grad_()
    loss = nn.functional.cross_entropy(twin(inputs, LENGTHS), batch["targets"])
    (gradient,) = torch.autograd.grad(loss, inputs)
    through_first_layers = norms["cell.layers.0/x"].sum() + norms["cell.reverse_layers.0/x"].sum()
    assert 0 < gradient.norm() < through_first_layers


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_language_model_has_residual_connections_and_normalization(norm):
    model = LanguageModel(GRU, 7, 6, (4, 4, 6), regularization=NO_REGULARIZATION, residual=True, norm=norm)
    words, state = torch.randint(7, (2, 5)), model.initial_state(2)
    x = z = model.embedding[words]
    for number, cell in enumerate(model.cells):
        y, _ = cell(z)
        x = x + y if number == 1 else y  # 6 -> 4 -> 4 -> 6
        z = model.norms[number](x)
    found, last = model(words)
    torch.testing.assert_close(found, z)
    steps = []
    for word in words.unbind(1):
        probability, state = model.step(word, state)
        steps.append(probability)
    torch.testing.assert_close(torch.stack(steps, 1), model.log_probabilities(found.flatten(0, 1)).view(2, 5, 7))
    torch.testing.assert_close(state, last)
    assert ("norms.0.weight" in model.state_dict()) == (norm != "none")


@pytest.mark.slow
def test_every_command_works_with_several_layers(capsys):
    options = ["--config", "configs/quickstart.yaml", "--model.hidden_size", "4", "--model.lr_schedule", "constant"]
    options += ["--model.num_layers", "2", "--model.residual", "true", "--model.norm", "rms"]
    options += ["--model.dropout", "0.1", "--model.bidirectional", "true", "--probe_every", "2"]
    short = [f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]
    short += ["--trainer.enable_progress_bar", "false"]
    assert main(["fit", *options, *short, "--run_dir", "run", "--trainer.max_epochs", "1"]) == 0
    assert main(["fit", "--resume", "run", "--trainer.max_epochs", "2"]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["epochs"] == 2
    assert results["cell"]["class_path"] == "cells.MomentumLSTM"
    best = "run/checkpoints/best.ckpt"
    assert main(["test", "--ckpt_path", best, *short]) == 0
    assert main(["export", "--ckpt_path", best]) == 0
    assert main(["diagnose", "--ckpt_path", best]) == 0
    page = Path("report.html").read_text()
    assert all(name in page for name in ("cell.layers.1", "cell.reverse_layers.0", "MomentumLSTM(8, 4"))
    assert "gradient_through_time" not in capsys.readouterr().err
