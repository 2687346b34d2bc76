"""Gradients through time measured in a run: their values, their history, and that the training does not change."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.fake_corpus import write_small_corpus
from helpers.paths import QUICKSTART
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import Adam

from app.callbacks.defaults import run_callbacks
from app.callbacks.gradient_history import History
from app.callbacks.gradients_through_time import FIRST_ESTIMATE, GradientsThroughTime
from app.callbacks.monitor import Monitor
from app.callbacks.random_states import RandomStates
from app.commands.main import main
from app.diagnostics.probe import ROWS, Measurement
from app.errors import UserError
from app.plots.tensorboard import RunLogger
from app.runs.run_directory import RunDirectory
from app.tasks import LanguageModel, SequenceClassifier
from cells import DTRIV, LSTM, MomentumLSTM
from datamodules import Corpus, Digits

FILE = Path("gradients.npz")


class Losses(Callback):
    """Records every training loss, the final weights, and random numbers drawn at the end."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, task, outputs, *_):
        self.losses.append(outputs["loss"].item())

    def on_train_end(self, trainer, task):
        self.weights = {name: tensor.clone() for name, tensor in task.state_dict().items()}
        self.random = torch.rand(3)


class Dropped(SequenceClassifier):
    """A classifier with dropout."""

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
def test_measuring_leaves_the_training_bitwise_identical(cell):
    with_it, without = Losses(), Losses()
    fit(GradientsThroughTime(2, FILE), with_it, cell=cell)
    fit(without, cell=cell)
    assert len(with_it.losses) == 9
    assert with_it.losses == without.losses
    assert all(torch.equal(with_it.weights[name], tensor) for name, tensor in without.weights.items())
    assert torch.equal(with_it.random, without.random)


def test_measurements_equal_autograd_on_a_manual_loop():
    """A loop over steps that retains the gradient of each h_t and c_t, after 0, 3 and 6 optimizer steps."""
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


def test_figures_take_at_most_one_percent_of_the_time(monkeypatch):
    """Epochs take 30 s, figures 0.5 s instead of the expected 1 s: the first are shown at 120 s, above 100 s."""
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


def test_gradient_accumulation_counts_optimizer_steps_and_unscaled_losses():
    callback, losses = GradientsThroughTime(2, FILE), Losses()
    fit(callback, losses, steps=4, accumulate_grad_batches=2)
    assert callback.history.steps == [0, 2, 4]
    assert callback.history.train_loss[1] == pytest.approx(2 * np.mean(losses.losses[:4]))


def test_history_is_restored_from_file_and_checkpoint():
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


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + bytes(18)])
def test_damaged_file_of_measurements_is_refused(content):
    FILE.write_bytes(content)
    with pytest.raises(UserError, match=r"the measurements in gradients.npz cannot be read"):
        History.load(FILE)


@pytest.mark.parametrize("stopped", [4, 5])
def test_resumed_run_has_the_history_of_an_uninterrupted_one(stopped):
    """Every array is identical, also where the run was stopped between two measurements."""
    save = ModelCheckpoint("kept", "{step}", save_top_k=-1, every_n_train_steps=1)
    fit(GradientsThroughTime(2, Path("whole.npz")), RandomStates(), save, steps=8, enable_checkpointing=True)
    fit(GradientsThroughTime(2, FILE), RandomStates(), steps=8, ckpt_path=f"kept/step={stopped}.ckpt")
    with np.load("whole.npz") as expected, np.load(FILE) as found:
        assert expected["steps"].tolist() == [0, 2, 4, 6, 8]
        assert set(found.files) == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_resuming_a_finished_training_shows_its_last_figures():
    """As after a run was killed in its final evaluation: TensorBoard removes what the last step had shown."""
    task = fit(GradientsThroughTime(2, FILE), steps=4)
    task.trainer.save_checkpoint("finished.ckpt")
    FILE.unlink()
    logger = RunLogger(".", name="", version="events")
    fit(GradientsThroughTime(2, FILE), steps=4, ckpt_path="finished.ckpt", logger=logger)
    assert History.load(FILE).steps == [0, 2, 4]
    events = EventAccumulator("events")
    events.Reload()
    assert [image.step for image in events.Images("watch_gradient_through_time/cell")] == [4]
    assert [event.step for event in events.Scalars("watch_dynamics/half_life/h")] == [4]


def test_command_line_run_logs_and_writes_gradients():
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
def test_callback_can_be_switched_off(observe, every):
    task = SequenceClassifier(LSTM, 1, 10, hidden_size=3)
    callbacks = run_callbacks(task, RunDirectory(Path("run")), observe, every)
    assert not any(isinstance(callback, GradientsThroughTime) for callback in callbacks)
    assert any(isinstance(callback, Monitor) for callback in callbacks) == observe


def test_measuring_leaves_a_language_model_bitwise_identical():
    """A language model with carried state and dropout, measured after every step or never."""
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
