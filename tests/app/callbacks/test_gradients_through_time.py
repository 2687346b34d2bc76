"""The gradient at each time step, measured in a run: right, and without a trace in the run."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.fake_corpus import write_small_corpus
from helpers.paths import QUICKSTART
from pytorch_lightning import Callback, Trainer, seed_everything
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import Adam

from app.callbacks.defaults import run_callbacks
from app.callbacks.gradient_history import History
from app.callbacks.gradients_through_time import FIRST_ESTIMATE, GradientsThroughTime
from app.callbacks.monitor import Monitor
from app.commands.main import main
from app.diagnostics.probe import ROWS, Measurement, Probe, outermost_cells, slope, vanishing_ratio
from app.plots.gradient_figures import history_figure, profile_figure
from app.runs.run_directory import RunDirectory
from app.tasks import FrameClassifier, FrameRegressor, LanguageModel, SequenceClassifier, SequenceRegressor
from cells import DTRIV, LSTM, RNN, MomentumLSTM
from datamodules import MNIST, Corpus, Digits

FILE = Path("gradients.npz")


class Losses(Callback):
    """Every training loss, and the weights and the random numbers at the end."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, task, outputs, *_):
        self.losses.append(outputs["loss"].item())

    def on_train_end(self, trainer, task):
        self.weights = {name: tensor.clone() for name, tensor in task.state_dict().items()}
        self.random = torch.rand(3)


class Dropped(SequenceClassifier):
    """A classifier whose training draws random numbers."""

    def forward(self, inputs, lengths=None):
        return super().forward(F.dropout(inputs, 0.3, self.training), lengths)


def fit(*callbacks, cell=DTRIV, steps=9, ckpt_path=None, **trainer):
    seed_everything(3)
    task = Dropped(partial(cell, **({"rebase_every": 2} if cell is DTRIV else {})), 1, 10, hidden_size=6)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False} | trainer
    Trainer(max_steps=steps, callbacks=list(callbacks), enable_model_summary=False, **options).fit(
        task, Digits(), ckpt_path=ckpt_path, weights_only=True
    )
    return task


@pytest.mark.parametrize("cell", [DTRIV, MomentumLSTM])
def test_a_run_is_bit_for_bit_the_run_without(cell):
    with_it, without = Losses(), Losses()
    fit(GradientsThroughTime(2, FILE), with_it, cell=cell)
    fit(without, cell=cell)
    assert len(with_it.losses) == 9
    assert with_it.losses == without.losses
    assert all(torch.equal(with_it.weights[name], tensor) for name, tensor in without.weights.items())
    assert torch.equal(with_it.random, without.random)


def test_measured_is_what_autograd_gives_by_hand_at_each_measurement():
    """The same training by a loop of its own: h_t kept, the gradient asked of autograd, after 0, 3 and 6 steps."""
    callback, losses = GradientsThroughTime(3, FILE), Losses()
    by_hand = []

    class ByHand(Callback):
        def on_train_batch_start(self, trainer, task, batch, batch_idx):
            if trainer.global_step % 3:
                return
            probe = next(iter(trainer.datamodule.val_dataloader()))
            double = Dropped(LSTM, 1, 10, hidden_size=6).double().eval()
            double.load_state_dict(task.state_dict())
            state, kept = double.cell.initial_state(ROWS), []
            for x_BI in probe["inputs"][:ROWS].double().unbind(1):
                h_BH, state = double.cell.step(x_BI, state)
                h_BH.retain_grad()
                state.core.c.retain_grad()
                kept.append(state.core)
            loss = F.cross_entropy(double.head(h_BH), probe["targets"][:ROWS])
            loss.backward()
            norms = [[float(part.grad.norm()) for part in step] for step in kept]
            by_hand.append((trainer.global_step, loss.item(), np.array(norms)))

    fit(callback, losses, ByHand(), cell=LSTM)
    history = callback.history
    assert history.steps == [0, 3, 6, 9]
    assert np.isnan(history.train_loss[0])
    assert history.train_loss[1:] == pytest.approx([np.mean(losses.losses[i : i + 3]) for i in (0, 3, 6)])
    for index, (step, loss, norms) in enumerate(by_hand):
        assert history.steps[index] == step
        assert history.probe_loss[index] == pytest.approx(loss, rel=1e-10)
        np.testing.assert_allclose(history.norms["cell/h"][index], norms[:, 0], rtol=1e-10)
        np.testing.assert_allclose(history.norms["cell/c"][index], norms[:, 1], rtol=1e-10)


def test_pictures_take_a_hundredth_of_the_time_until_the_end(monkeypatch):
    """Epochs of 30 s, pictures that take 0.5 s where 1 s was expected: first at 120 > 100."""
    now, shown = [0.0], []
    monkeypatch.setattr("app.callbacks.gradients_through_time.time.monotonic", lambda: now[0])
    callback = GradientsThroughTime(1, FILE)
    callback.probe, callback.drawing, callback.start, callback.latest = object(), 0.0, 0.0, FIRST_ESTIMATE
    monkeypatch.setattr("app.callbacks.gradients_through_time.shows_figures", lambda trainer: True)

    def show(trainer, task):
        shown.append(now[0])
        callback.latest = 0.5
        callback.drawing += 0.5

    monkeypatch.setattr(callback, "_show", show)
    for _ in range(8):
        now[0] += 30
        callback.on_validation_end(None, None)
    assert shown == [120, 150, 180, 210]


def test_accumulated_gradients_count_optimiser_steps_and_whole_losses():
    callback, losses = GradientsThroughTime(2, FILE), Losses()
    fit(callback, losses, steps=4, accumulate_grad_batches=2)
    assert callback.history.steps == [0, 2, 4]
    assert callback.history.train_loss[1] == pytest.approx(2 * np.mean(losses.losses[:4]))


def test_arrays_are_read_back_and_a_run_goes_on_with_them():
    history = History()
    for step in (0, 2, 4):
        history.add(step, step / 2, Measurement(float(step), {"cell/h": np.full(5, step + 1.0)}))
    history.save(FILE)
    torch.save(history.state_dict(), "state.pt")
    for found in (History.load(FILE), History.from_state_dict(torch.load("state.pt", weights_only=True))):
        assert found.steps == [0, 2, 4]
        assert found.probe_loss == [0, 2, 4]
        assert found.train_loss == [0, 1, 2]
        assert found.cells == ["cell"]
        np.testing.assert_array_equal(found.of_cell("cell")["h"], [[1] * 5, [3] * 5, [5] * 5])


def test_a_resumed_run_measures_what_the_undisturbed_one_does():
    whole = GradientsThroughTime(2, Path("whole.npz"))
    fit(whole, steps=8)
    task = fit(GradientsThroughTime(2, FILE), steps=4)
    task.trainer.save_checkpoint("at_4.ckpt")
    again = GradientsThroughTime(2, FILE)
    fit(again, steps=8, ckpt_path="at_4.ckpt")
    assert again.history.steps == whole.history.steps == [0, 2, 4, 6, 8]
    for name, norms in whole.history.norms.items():
        np.testing.assert_allclose(again.history.norms[name][:3], norms[:3], rtol=1e-12)
    with np.load(FILE) as arrays:
        assert arrays["steps"].tolist() == [0, 2, 4, 6, 8]


def test_layers_are_told_apart_and_a_cell_in_a_cell_is_no_layer():
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
    assert used == {"layers.0", "layers.1"}  # the others are not called
    np.testing.assert_allclose(found.norms["layers.0/x"].shape, (7,))


def test_frames_have_a_gradient_at_each_valid_step():
    """Padding has none, in any cell, and the loss is that of the valid frames."""
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


def test_every_layer_of_a_language_model_is_looked_into_without_dropout():
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
    # the last output reaches nothing but its own word
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
def test_the_loss_on_a_probe_is_that_of_the_training(task, targets, monkeypatch):
    batch = {"inputs": torch.randn(2, 6, 3), "targets": targets, "lengths": torch.tensor([6, 4])}
    logged = {}
    monkeypatch.setattr(task, "log_part", lambda part, weight, **metrics: logged.update(metrics))
    task.training_step(batch, 0)
    assert Probe(batch).measure(task).loss == pytest.approx(logged["loss"].item(), rel=1e-5)


def test_what_cannot_be_looked_into_says_so():
    class Silent(SequenceClassifier):
        supports_probing = False

    probe = Probe({"inputs": torch.rand(2, 3, 1), "targets": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(ValueError, match="Silent does not support probing"):
        probe.measure(Silent(LSTM, 1, 10, hidden_size=3))


def test_ratio_and_slope_of_a_profile_that_is_known():
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


def test_pictures_show_the_arrays_over_the_same_steps():
    norms = {"h": 10.0 ** -np.arange(12.0).reshape(3, 4), "x": np.zeros((3, 4))}
    figure = history_figure(norms, [0, 10, 30], {"probe": [3, 2, 1], "training": [np.nan, 2, 1]})
    heat, _, below = figure.axes[:3]
    (mesh,) = heat.collections
    np.testing.assert_allclose(mesh.get_array(), -np.arange(12.0).reshape(3, 4).T)
    edges = mesh.get_coordinates()[0, :, 0]
    assert edges.tolist() == [-5, 5, 20, 40]
    assert below.get_xlim() == heat.get_xlim() == (-5, 40)
    assert below.lines[0].get_xydata().tolist() == [[0, 3], [10, 2], [30, 1]]
    left, right = (axis.get_position() for axis in (heat, below))
    assert (left.x0, left.x1) == pytest.approx((right.x0, right.x1))
    lines = profile_figure({"step 0": {"h": norms["h"][0]}, "step 30": {"h": norms["h"][2]}}).axes[0].lines
    assert lines[1].get_ydata().tolist() == norms["h"][2].tolist()
    assert lines[0].get_xdata().tolist() == [1, 2, 3, 4]


def test_a_run_of_the_command_line_shows_and_writes_it():
    options = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--model.hidden_size", "4"]
    options += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
    assert main(["fit", "--config", QUICKSTART, *options, "--run_dir", "run", "--probe_every", "15"]) == 0
    found = EventAccumulator("run/tensorboard")
    found.Reload()
    assert [event.step for event in found.Scalars("watch_gradient_through_time/vanishing_ratio")] == [0, 15, 30]
    assert [event.step for event in found.Scalars("watch_gradient_through_time/slope")] == [0, 15, 30]
    assert {"watch_gradient_through_time/cell", "watch_gradient_through_time/cell_latest"} <= set(
        found.Tags()["images"]
    )
    with np.load("run/gradients.npz") as arrays:
        assert arrays["cell/h"].shape == arrays["cell/c"].shape == arrays["cell/x"].shape == (3, 64)


@pytest.mark.parametrize(("observe", "every"), [(False, 5), (True, 0)])
def test_it_is_switched_off_alone_or_with_all_else(observe, every):
    task = SequenceClassifier(LSTM, 1, 10, hidden_size=3)
    callbacks = run_callbacks(task, RunDirectory(Path("run")), observe, every)
    assert not any(isinstance(callback, GradientsThroughTime) for callback in callbacks)
    assert any(isinstance(callback, Monitor) for callback in callbacks) == observe


def profile_at_the_start(cell, data):
    data.prepare_data()
    data.setup()
    task = SequenceClassifier(cell, data.input_size, data.num_classes, hidden_size=128)
    return Probe.of(data).measure(task).norms["cell/h"]


def test_a_tanh_network_vanishes_at_the_start_and_an_orthogonal_one_is_flat():
    """64 steps, 128 units: torch's initialisation against an orthogonal U."""
    vanishing, flat = (profile_at_the_start(cell, Digits()) for cell in (RNN, DTRIV))
    assert vanishing_ratio(vanishing) < 1e-10
    assert slope(vanishing) > 0.15
    assert 0.5 < vanishing_ratio(flat) < 1.5
    assert abs(slope(flat)) < 0.003


@pytest.mark.data
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR names no folder of data")
def test_a_tanh_network_vanishes_on_mnist_and_an_orthogonal_one_is_flat():
    """784 steps. The first pixels are black: there h_t is 0, where modReLU has no derivative, so the slope tells."""
    vanishing, flat = (profile_at_the_start(cell, MNIST()) for cell in (RNN, DTRIV))
    assert vanishing_ratio(vanishing) < 1e-100
    assert slope(vanishing) > 0.15
    assert abs(slope(flat)) < 0.001


def test_a_stream_is_not_disturbed():
    """A language model, its state carried from window to window, with dropout: measured after every step and never."""
    write_small_corpus(Path("data"))
    weights = []
    for callbacks in ([], [GradientsThroughTime(1, FILE)]):
        seed_everything(3)
        data = Corpus("data", batch_size=4)
        data.prepare_data()
        data.setup("fit")
        task = LanguageModel(LSTM, data.vocabulary_size, embedding_size=5, hidden_sizes=[6, 5], optimizer=Adam)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(max_epochs=2, callbacks=callbacks, enable_model_summary=False, **quiet).fit(task, data)
        weights.append(task.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    with np.load(FILE) as arrays:
        assert len(arrays["steps"]) > 3
        assert arrays["layers.1/c"].shape == arrays["layers.0/c"].shape
