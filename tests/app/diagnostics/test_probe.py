"""The probe: losses and gradients through time of a copy of the task."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from app.diagnostics.probe import Probe, outermost_cells, slope, vanishing_ratio
from app.tasks import FrameClassifier, FrameRegressor, LanguageModel, SequenceClassifier, SequenceRegressor
from cells import DTRIV, LSTM, RNN
from datamodules import MNIST, Digits


def test_layers_are_separate_and_a_cell_inside_a_cell_is_left_out():
    class Stack(LSTM):
        def __init__(self, input_size, hidden_size, **own):
            super().__init__(input_size, hidden_size, **own)
            self.inner = LSTM(1, 2)

    class Deep(SequenceClassifier):
        def __init__(self):
            super().__init__(LSTM, 1, 10, hidden_size=6)
            self.layers = nn.ModuleList([LSTM(1, 5), Stack(5, 6), LSTM(9, 9)])

        def forward(self, inputs, lengths=None):
            for layer in list(self.layers)[:2]:
                inputs, _ = layer(inputs)
            return self.head(inputs[:, -1])

    task = Deep()
    assert list(outermost_cells(task)) == ["cell", "layers.0", "layers.1", "layers.2"]
    found = Probe({"inputs": torch.rand(9, 7, 1), "targets": torch.zeros(9, dtype=torch.int64)}).measure(task)
    used = {name.partition("/")[0] for name in found.norms}
    assert used == {"layers.0", "layers.1"}  # forward() calls only these
    np.testing.assert_allclose(found.norms["layers.0/x"].shape, (7,))


def test_frames_have_a_gradient_at_each_valid_step():
    """Padding has no gradient, and the loss is that of the valid frames."""
    task = FrameRegressor(LSTM, input_size=3, target_size=2, hidden_size=4)
    batch = {"inputs": torch.randn(2, 6, 3), "targets": torch.randn(2, 6, 2), "lengths": torch.tensor([4, 3])}
    found = Probe(batch).measure(task)
    task.double()
    y_BTF = task(batch["inputs"].double())
    errors = [
        (y_BTF[row, :length] - batch["targets"][row, :length]).square().flatten() for row, length in ((0, 4), (1, 3))
    ]
    assert found.loss == pytest.approx(torch.cat(errors).mean().item(), rel=1e-12)
    assert (found.norms["cell/h"][:4] > 0).all()
    assert (found.norms["cell/h"][4:] == 0).all()
    assert 0 < vanishing_ratio(found.norms["cell/h"]) < np.inf


def test_all_layers_of_a_language_model_are_probed_without_dropout():
    task = LanguageModel(LSTM, vocabulary_size=11, embedding_size=3, hidden_sizes=[4, 3])
    words = torch.randint(11, (2, 6))
    found = Probe({"inputs": words, "targets": words.roll(-1, 1), "reset": torch.ones(2, dtype=torch.bool)}).measure(
        task
    )
    assert {name.rpartition("/")[0] for name in found.norms} == {"layers.0", "layers.1"}
    task.double().eval()
    y_BTH, _ = task(words)
    logits_NV = y_BTH.flatten(0, 1) @ task.embedding.T + task.softmax_bias
    expected = F.cross_entropy(logits_NV, words.roll(-1, 1).flatten())
    assert found.loss == pytest.approx(expected.item(), rel=1e-12)
    (y_gradient,) = torch.autograd.grad(expected, y_BTH)
    # the last output affects only its own word
    assert found.norms["layers.1/h"][-1] == pytest.approx(y_gradient[:, -1].norm().item(), rel=1e-10)
    assert (found.norms["layers.0/x"] > 0).all()


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (SequenceClassifier(LSTM, 3, 5, hidden_size=4), torch.tensor([4, 1])),
        (SequenceRegressor(LSTM, 3, 2, hidden_size=4), torch.randn(2, 2)),
        (FrameClassifier(LSTM, 3, 5, hidden_size=4), torch.randint(5, (2, 6))),
        (FrameRegressor(LSTM, 3, 2, hidden_size=4), torch.randn(2, 6, 2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_probe_loss_equals_the_training_loss(task, targets, monkeypatch):
    batch = {"inputs": torch.randn(2, 6, 3), "targets": targets, "lengths": torch.tensor([6, 4])}
    logged = {}
    monkeypatch.setattr(task, "log_part", lambda part, weight, **metrics: logged.update(metrics))
    task.training_step(batch, 0)
    assert Probe(batch).measure(task).loss == pytest.approx(logged["loss"].item(), rel=1e-5)


def test_task_without_probing_is_refused():
    class Silent(SequenceClassifier):
        supports_probing = False

    probe = Probe({"inputs": torch.rand(2, 3, 1), "targets": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(ValueError, match="Silent does not support probing"):
        probe.measure(Silent(LSTM, 1, 10, hidden_size=3))


def test_ratio_and_slope_of_a_known_profile():
    profile = 10.0 ** (0.05 * np.arange(100))
    assert slope(profile) == pytest.approx(0.05)
    tenths = profile[:10].mean() / profile[-10:].mean()
    assert vanishing_ratio(profile) == pytest.approx(tenths)
    ended = np.concatenate([profile, np.zeros(30)])  # sequences of 100 steps, padded
    assert slope(ended) == pytest.approx(0.05)
    assert vanishing_ratio(ended) == pytest.approx(tenths)
    assert vanishing_ratio(np.ones(7)) == 1
    assert np.isnan(vanishing_ratio(np.zeros(7)))
    assert np.isnan(slope(np.eye(7)[6]))


def profile_at_the_start(cell, data):
    data.prepare_data()
    data.setup()
    task = SequenceClassifier(cell, data.input_size, data.num_classes, hidden_size=128)
    return Probe.of(data).measure(task).norms["cell/h"]


def test_gradients_vanish_in_a_tanh_network_and_not_in_an_orthogonal_one():
    """64 steps, 128 units: torch's initialization against an orthogonal U."""
    vanishing, flat = (profile_at_the_start(cell, Digits()) for cell in (RNN, DTRIV))
    assert vanishing_ratio(vanishing) < 1e-10
    assert slope(vanishing) > 0.15
    assert 0.5 < vanishing_ratio(flat) < 1.5
    assert abs(slope(flat)) < 0.003


@pytest.mark.data
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR names no folder of data")
def test_gradients_vanish_on_mnist_in_a_tanh_network_and_not_in_an_orthogonal_one():
    """784 steps. The first pixels are black, so h_t is 0, where modReLU has no derivative: compare slopes instead."""
    vanishing, flat = (profile_at_the_start(cell, MNIST()) for cell in (RNN, DTRIV))
    assert vanishing_ratio(vanishing) < 1e-100
    assert slope(vanishing) > 0.15
    assert abs(slope(flat)) < 0.001
