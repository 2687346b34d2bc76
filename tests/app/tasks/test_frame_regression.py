"""Frame regression: masked error, speech quality, and a run from the command line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_timit import small_sound
from helpers.trainers import QUIET
from pytorch_lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.commands.main import main
from app.plots.figures import as_array, bins_figure, frames_figure
from app.tasks import FrameRegressor
from app.tasks.frame_regression import masked_mean_squared_error
from app.tasks.padding import valid_steps
from app.tasks.speech_quality import segmental_snr, speech_measures
from cells import LSTM
from datamodules import TIMIT
from datamodules.timit import spectra

OPTIONS = [
    *("--data", "TIMIT", "--data.split", "official", "--data.batch_size", "3"),
    *("--model", "FrameRegressor", "--model.cell", "MomentumLSTM", "--model.hidden_size", "6"),
    *("--model.optimizer", "Adam", "--model.optimizer.lr", "0.01"),
    *("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--run_dir", "run"),
]
pytestmark = pytest.mark.filterwarnings("ignore:TIMIT is incomplete")


def regressor(**options) -> FrameRegressor:
    return FrameRegressor(LSTM, input_size=129, target_size=129, hidden_size=5, **options)


def data_of(folder: Path, **options) -> TIMIT:
    data = TIMIT(str(folder / "disc"), prepared=str(folder / "features"), **options)
    data.setup()
    return data


def batch_of(folder: Path, **options) -> dict:
    return next(iter(data_of(folder, batch_size=4, **options).test_dataloader()))


def test_masked_error_of_a_small_case():
    targets = torch.zeros(2, 3, 2)
    predictions = torch.tensor([[[1.0, 2], [3, 0], [9, 9]], [[2, 2], [9, 9], [9, 9]]])
    mask = valid_steps({"inputs": targets, "lengths": torch.tensor([2, 1])})
    assert mask.tolist() == [[True, True, False], [True, False, False]]
    expected = (1 + 4 + 9 + 0 + 4 + 4) / 6
    assert masked_mean_squared_error(predictions, targets, mask).item() == pytest.approx(expected)


def test_without_lengths_every_step_is_valid():
    assert valid_steps({"inputs": torch.zeros(2, 3, 1)}).all()


def test_padding_changes_neither_loss_nor_gradients(small_timit):
    batch = batch_of(small_timit)
    other = {name: tensor.clone() for name, tensor in batch.items()}
    for row, length in enumerate(batch["lengths"]):
        other["inputs"][row, length:] = 40.0
        other["targets"][row, length:] = float("nan")
    task = regressor()
    task.log_part = lambda *args, **metrics: None  # there is no trainer to log to
    found = []
    for content in (batch, other):
        task.zero_grad()
        loss = task.training_step(content, 0)
        loss.backward()
        found.append([loss, *(parameter.grad.clone() for parameter in task.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_error_of_an_epoch_is_the_mean_over_all_frames(small_timit):
    data = data_of(small_timit, batch_size=3)  # 4 = 3 + 1 utterances
    task = regressor()
    (found,) = Trainer(**QUIET).validate(task, data, verbose=False)
    total, count = 0.0, 0
    for number in range(len(data.validation)):
        example = data.validation[number]
        with torch.no_grad():
            errors = task(example["inputs"][None])[0] - example["targets"]
        total, count = total + float(errors.double().square().sum()), count + errors.numel()
    assert found["validation/loss"] == pytest.approx(total / count, rel=1e-6)


@pytest.mark.parametrize(("size", "hidden", "count"), [("LSTM", 84, 83_205), ("LSTM", 158, 203_159)])
def test_parameters(size, hidden, count):
    task = FrameRegressor(LSTM, input_size=129, target_size=129, hidden_size=hidden)
    assert sum(parameter.numel() for parameter in task.parameters()) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speech_every": -1}, "speech_every must be an integer of at least 0, got -1"),
        ({"scale": 0.0}, "scale must be above 0, got 0.0"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        regressor(**options)


def test_scaling_wraps_the_cell_only():
    torch.manual_seed(3)
    scaled = regressor(center=-40.0, scale=15.0)
    torch.manual_seed(3)
    plain = regressor()
    inputs = 15 * torch.randn(2, 7, 129) - 40
    torch.testing.assert_close(scaled(inputs), plain((inputs + 40) / 15) * 15 - 40)


def test_segmental_snr_equals_its_formula():
    rng = np.random.RandomState(0)
    sound = rng.standard_normal(256 * 6 + 100)
    sound[256:512] = 0  # silence is left out
    estimate = sound + 0.1 * rng.standard_normal(len(sound))
    estimate[512:768] = 50  # far below -10 dB
    estimate[768:1024] = sound[768:1024]  # exact: infinite
    ratios = []
    for start in (0, 512, 768, 1024, 1280):
        signal, noise = (np.square(x[start : start + 256]).sum() for x in (sound, sound - estimate))
        with np.errstate(divide="ignore"):
            ratios.append(np.clip(10 * np.log10(signal / noise), -10, 35))
    found = segmental_snr(torch.from_numpy(estimate), torch.from_numpy(sound)).item()
    assert found == pytest.approx(np.mean(ratios))
    assert ratios[1:3] == [-10, 35]


def test_stoi_equals_pystoi():
    sound = torch.from_numpy(np.resize(small_sound("faem0", "si648"), 12_000)) / 2**15
    estimate = sound + 0.05 * torch.randn(len(sound))
    pystoi = pytest.importorskip("pystoi")
    found = speech_measures(estimate, sound)["stoi"].item()
    assert found == pytest.approx(pystoi.stoi(sound.numpy(), estimate.numpy(), 8000), abs=1e-4)
    assert 0.3 < found < 0.999


def test_pesq_of_an_estimate_without_speech_is_one():
    pytest.importorskip("pesq")
    sound = torch.from_numpy(np.resize(small_sound("faem0", "si648"), 12_000)) / 2**15
    assert speech_measures(torch.zeros(len(sound)), sound)["pesq"] == 1
    assert speech_measures(sound, sound)["pesq"] > 4


def test_measures_without_their_packages_are_left_out(monkeypatch):
    monkeypatch.setattr("app.tasks.speech_quality.find_spec", lambda package: None)
    assert set(speech_measures(torch.randn(1000), torch.randn(1000))) == {"segmental_snr"}


@pytest.mark.parametrize("protocol", ["prediction", "recall"])
def test_perfect_prediction_rebuilds_the_sound(protocol, small_timit):
    """The true power with the true phase gives a high segmental SNR and a STOI of 1."""
    task, batch = regressor(), batch_of(small_timit, protocol=protocol)
    found = task._speech_metrics(batch, batch["targets"])
    assert {weight for _, weight in found.values()} == {4}
    assert found["segmental_snr"][0] > 30
    assert found["stoi"][0] > 0.99
    worse = task._speech_metrics(batch, batch["targets"] + 10)
    assert worse["segmental_snr"][0] < found["segmental_snr"][0] - 20


def test_figures_have_their_sizes():
    targets = torch.rand(40, 129) * 60 - 50
    picture = as_array(frames_figure(targets + torch.randn(40, 129), targets))
    assert picture.shape == (340, 1200, 3)
    assert as_array(bins_figure(torch.rand(129))).shape == (300, 600, 3)


def test_run_reports_protocol_and_baselines_and_shows_frames(small_timit, capsys):
    place = ["--data.prepared", str(small_timit / "features")]
    assert main(["fit", *OPTIONS, *place, "--model.speech_every", "2"]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert set(results["test"]) >= {"loss", "segmental_snr", "stoi"}
    assert set(results["validation"]) == set(results["test"])
    assert results["baselines"] == pytest.approx(data_of(small_timit).baselines())
    assert results["notes"] == ["protocol prediction: the target is the next frame"]
    assert results["preparation"]["split"] == {"train": 8, "validation": 4, "test": 4}
    said = capsys.readouterr().out
    assert said.count("protocol prediction: the target is the next frame") == 2
    assert re.search(r"baseline: last frame repeated, test +\d+\.\d+", said)
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    tags = events.Tags()
    assert {"watch_frames", "watch_error_by_bin"} <= set(tags["images"])
    assert set(tags["audio"]) == {"watch_sound/target", "watch_sound/prediction"}
    assert events.Audio("watch_sound/target")[0].sample_rate == spectra.RATE
    assert len(events.Scalars("validation/stoi")) == 2  # after epoch 2 of 2, and in the final evaluation

    checkpoint = ["--ckpt_path", "run/checkpoints/best.ckpt"]
    assert main(["test", *checkpoint]) == 0
    assert main(["predict", *checkpoint, "--output", "frames.csv"]) == 0
    with Path("frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    data = data_of(small_timit)
    assert len(rows) == sum(data.test.lengths)
    assert {row["sequence"] for row in rows} == {"felc0_si648", "felc0_sx37", "mdab0_si648", "mdab0_sx37"}
    place_0 = data.test.places[0]
    task = FrameRegressor.load_from_checkpoint("run/checkpoints/best.ckpt")
    with torch.no_grad():
        expected = task(data.test[0]["inputs"][None].to(task.device))[0].cpu()
    assert [row["step"] for row in rows if row["sequence"] == place_0.name] == [str(n) for n in range(len(expected))]
    assert float(rows[3]["prediction_128"]) == pytest.approx(expected[3, 128].item(), abs=1e-4)

    assert main(["test", *checkpoint, "--data.protocol", "recall"]) == 2
    assert "protocol must be prediction, as in the checkpoint's training, got recall" in capsys.readouterr().err


@pytest.mark.slow
def test_regressor_is_exported(small_timit):
    place = ["--data.prepared", str(small_timit / "features")]
    assert main(["fit", *OPTIONS, *place, "--trainer.max_epochs", "1"]) == 0
    assert main(["export", "--ckpt_path", "run/checkpoints/best.ckpt", "--output", "model.pt2"]) == 0


def test_recall_protocol_is_explained(small_timit, capsys):
    place = ["--data.prepared", str(small_timit / "features"), "--data.protocol", "recall"]
    assert main(["fit", *OPTIONS, *place, "--trainer.max_epochs", "1"]) == 0
    assert "recall: the target is the previous frame, which was already an input" in capsys.readouterr().out
    results = json.loads(Path("run/results.json").read_text())
    assert "not prediction" in results["preparation"]["meaning"]
