"""Tests of TIMIT: layouts of the disc, splits, protocols, errors for unusable recordings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.fake_timit import EVERYBODY, SPEAKERS, small_sound, write_disc, write_sample, write_wave
from helpers.paths import ROOT
from pytorch_lightning.trainer.states import TrainerFn

from app.commands.main import main
from datamodules import TIMIT, DataError
from datamodules.timit import spectra
from datamodules.timit.feature_files import FeatureFile
from datamodules.timit.preparation import SETTINGS, open_timit, prepare_timit
from datamodules.timit.recordings import GROUPS, differences, find_recordings, read_sound

DATA_DIR = os.environ.get("DATA_DIR")
real = pytest.mark.skipif(DATA_DIR is None, reason="DATA_DIR is not set")


def ready(folder: Path, **options) -> TIMIT:
    data = TIMIT(str(folder / "disc"), prepared=str(folder / "features"), **options)
    data.prepare_data()
    data.setup()
    return data


def speakers(data: TIMIT) -> dict[str, set[str]]:
    return {part: {place.speaker for place in places} for part, places in data.places.items()}


def everything(files: list[FeatureFile]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        f"{said.speaker} {said.sentence}": file[number] for file in files for number, said in enumerate(file.utterances)
    }


@pytest.mark.parametrize(
    "write",
    [
        lambda: write_sample(Path("root")),
        lambda: write_disc(Path("root"), kind="NIST"),
        lambda: write_disc(Path("root"), kind="WAV", upper=False),
        lambda: write_disc(Path("root/timit/TIMIT"), kind="NIST", upper=False),
        lambda: write_disc(Path("root/data"), kind="WAV", ending=".WAV.wav", upper=False),
        lambda: (write_disc(Path("root")), write_disc(Path("root"), kind="WAV", ending=".WAV.wav")),
    ],
    ids=["sample", "LDC", "lower case, RIFF", "two folders down", "WAV.wav", "both"],
)
def test_all_layouts_give_the_same_features(write, small_timit):
    write()
    recordings = find_recordings(Path("root"))
    assert len(recordings) == len(EVERYBODY) * 2
    assert {recording.sentence for recording in recordings} == {"si648", "sx37"}
    found = everything(prepare_timit(Path("root"), Path("features"), processes=1))
    expected = everything(open_timit(small_timit / "features"))
    assert found.keys() == expected.keys()
    for name, arrays in expected.items():
        for one, other in zip(found[name], arrays, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_several_processes_write_the_same_files_as_one(small_timit):
    prepare_timit(small_timit / "disc", Path("features"), processes=2)
    for group in SPEAKERS:
        for name in (f"{group}.float32", f"{group}.json"):
            assert Path("features", name).read_bytes() == (small_timit / "features" / name).read_bytes()


def test_prepared_data_need_no_disc(small_timit):
    shutil.copytree(small_timit / "features", "features")
    data = TIMIT("nowhere", prepared="features")
    data.prepare_data()
    data.setup()
    assert len(data.train) == 8


def test_first_use_prepares_the_data():
    write_disc(Path("data"))
    data = TIMIT("data", dtype="float16")
    data.prepare_data()
    data.setup()
    assert {path.suffix for path in Path("data/timit-features").glob("*.float*")} == {".float16"}
    exact = everything(prepare_timit(Path("data"), Path("exact"), processes=1))
    for name, (power, _) in everything(data.files).items():
        np.testing.assert_allclose(power, exact[name][0], rtol=0, atol=0.02)


def test_features_equal_those_of_the_recording(small_timit):
    sound = torch.from_numpy(small_sound("fadg0", "sx37")) / 2**15
    at_8_khz = spectra.resample(sound)
    (development,) = [file for file in open_timit(small_timit / "features") if file.name == "development"]
    power, kept = everything([development])["fadg0 sx37"]
    np.testing.assert_allclose(power, spectra.features(at_8_khz), rtol=0, atol=1e-4)
    np.testing.assert_allclose(kept, at_8_khz, rtol=0, atol=1e-6)


def test_groups_of_speakers_equal_those_of_the_corpus():
    assert {group: len(members) for group, members in GROUPS.items()} == {
        "training": 462,
        "development": 50,
        "core_test": 24,
    }
    everybody = [speaker for members in GROUPS.values() for speaker in members]
    assert len(set(everybody)) == 462 + 50 + 24
    assert sum(speaker.startswith("m") for speaker in GROUPS["training"]) == 326  # of the corpus's documentation
    assert sum(speaker.startswith("m") for speaker in GROUPS["core_test"]) == 16  # two men and a woman of each region
    assert sum("sa" in speaker for speaker in everybody) == 7
    assert 8 * sum("sa" not in speaker for speaker in GROUPS["training"]) == 3640  # as many as the published runs had


@pytest.mark.parametrize(
    ("split", "train", "validation", "test"),
    [
        ("official", {"fsag0", "faem0", "mabc0", "msat1"}, {"fadg0", "mrws1"}, {"felc0", "mdab0"}),
        ("published", {"faem0", "mabc0"}, {"fadg0", "mrws1"}, {"fadg0", "mrws1"}),
    ],
)
def test_splits_follow_the_groups_of_speakers(split, train, validation, test, small_timit):
    data = ready(small_timit, split=split)
    assert speakers(data) == {"train": train, "validation": validation, "test": test}
    assert data.chosen_on_test == (split == "published")
    sizes = {"train": 2 * len(train), "validation": 4, "test": 4}
    if data.chosen_on_test:
        del sizes["validation"]
    assert data.description["split"] == sizes
    assert [place.frames for place in data.test.places] == sorted(place.frames for place in data.test.places)


def test_missing_speakers_are_named(small_timit):
    with pytest.warns(UserWarning, match="TIMIT is incomplete: training: 4 of 462 speakers are present: faem0"):
        ready(small_timit)


def test_differences_name_speakers_and_sentences():
    whole = [(speaker, f"sx{n}") for members in GROUPS.values() for speaker in sorted(members) for n in range(8)]
    assert differences(whole) == []
    lacking = [pair for pair in whole if pair[0] not in ("mzmb0", "faem0") and pair != ("mdab0", "sx3")]
    assert differences([*lacking, ("fadg0", "sx9")]) == [
        "training: 2 of 462 speakers are missing: faem0 mzmb0",
        "development: fadg0 has 9 sentences, not 8: sx0 sx1 sx2 sx3 sx4 sx5 sx6 sx7 sx9",
        "core_test: mdab0 has 7 sentences, not 8: sx0 sx1 sx2 sx4 sx5 sx6 sx7",
    ]


@pytest.mark.parametrize(
    ("fractions", "counts"),
    [((0.8, 0.1, 0.1), [6, 1, 1]), ((0.5, 0.25, 0.25), [4, 2, 2]), ((0.98, 0.01, 0.01), [6, 1, 1])],
)
def test_fractions_of_speakers(fractions, counts, small_timit):
    data = ready(small_timit, split="speakers", fractions=fractions)
    parts = speakers(data)
    assert [len(parts[part]) for part in ("train", "validation", "test")] == counts
    assert set().union(*parts.values()) == set(EVERYBODY)
    assert parts == speakers(ready(small_timit, split="speakers", fractions=fractions))
    assert data.description["held_out"]["test"] == sorted(parts["test"])


def example(data: TIMIT) -> tuple[dict, np.ndarray]:
    """Return the shortest test utterance as a batch of one, and its frames."""
    place = data.test.places[0]
    return data.test.__getitems__([0]), place.file[place.number][0]


def test_prediction_targets_are_the_next_frames(small_timit):
    batch, power = example(ready(small_timit))
    np.testing.assert_array_equal(batch["inputs"][0], power[:-1])
    np.testing.assert_array_equal(batch["targets"][0], power[1:])


def test_recall_targets_are_the_previous_frames(small_timit):
    batch, power = example(ready(small_timit, protocol="recall"))
    np.testing.assert_array_equal(batch["inputs"][0], power)
    np.testing.assert_array_equal(batch["targets"][0, 1:], power[:-1])
    assert (batch["targets"][0, 0] == -50).all()


@pytest.mark.parametrize("protocol", ["prediction", "recall"])
def test_targets_equal_the_power_of_the_sounds(protocol, small_timit):
    batch = next(iter(ready(small_timit, protocol=protocol, batch_size=4).test_dataloader()))
    power = spectra.log_power(spectra.spectrum(batch["sounds"].double()))
    assert len(set(batch["lengths"].tolist())) > 1
    for row, length in enumerate(batch["lengths"]):
        torch.testing.assert_close(power[row, :length].float(), batch["targets"][row, :length], rtol=0, atol=1e-2)


def test_shuffled_batches_mix_lengths_and_change_with_the_epoch(small_timit):
    data = ready(small_timit, batch_size=2, batching="shuffle")
    loader = data.train_dataloader()
    first = [batch["lengths"].tolist() for batch in loader]
    order = np.random.RandomState([0, 0]).permutation(8)  # seed 0, epoch 0: no sorting by length
    assert first == [[data.train.lengths[n] for n in pair] for pair in order.reshape(4, 2)]
    loader.batch_sampler.set_epoch(1)
    second = [batch["lengths"].tolist() for batch in loader]
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))


def test_checkpoint_of_other_batching_cannot_be_resumed(small_timit):
    data = ready(small_timit, batching="shuffle")
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), global_rank=0, world_size=1)
    state = {"protocol": "prediction", "epoch": 0, "batches": 1, **data._reading(), "batching": "by_length"}
    with pytest.raises(DataError, match="batching"):
        data.load_state_dict(state)


@pytest.mark.filterwarnings("ignore:TIMIT is incomplete")
def test_published_recipe_reports_the_lowest_test_error_of_all_epochs(small_timit):
    config = str(ROOT / "configs" / "timit" / "momentum_lstm_84.yaml")
    options = ["--data.prepared", str(small_timit / "features"), "--model.hidden_size", "4", "--run_dir", "run"]
    options += ["--trainer.max_epochs", "3", "--trainer.enable_progress_bar", "false", "--model.optimizer.lr", "0.3"]
    assert main(["fit", "--config", config, *options]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["best_test"]["loss"] <= results["test"]["loss"]
    assert "validation" not in results
    assert "optimistic" in results["chosen_on"]
    assert results["preparation"]["batching"] == "shuffle"


def test_batches_are_padded_and_of_similar_length(small_timit):
    data = ready(small_timit, batch_size=2)
    batches = list(data.train_dataloader())
    assert all(set(batch) == {"inputs", "targets", "lengths"} for batch in batches)
    lengths = sorted(length for batch in batches for length in batch["lengths"].tolist())
    assert lengths == sorted(data.train.lengths)
    pairs = sorted(sorted(batch["lengths"].tolist()) for batch in batches)
    assert [length for pair in pairs for length in pair] == lengths  # neighbors in length are in one batch
    for batch in batches:
        for row, length in enumerate(batch["lengths"]):
            assert (batch["inputs"][row, length:] == 0).all()
            assert (batch["targets"][row, length:] == 0).all()


@pytest.mark.parametrize("protocol", ["prediction", "recall"])
def test_baselines_equal_numpy(protocol, small_timit):
    data = ready(small_timit, protocol=protocol)
    found = data.baselines()

    def frames(part):
        return [place.file[place.number][0].astype(np.float64) for place in data.places[part]]

    def pairs(power):
        before = np.concatenate([np.full((1, 129), -50.0), power[:-1]])
        return (power[:-1], power[1:]) if protocol == "prediction" else (power, before)

    mean = np.concatenate([pairs(power)[1] for power in frames("train")]).mean(0)
    for part in ("validation", "test"):
        inputs, targets = (np.concatenate(arrays) for arrays in zip(*map(pairs, frames(part)), strict=True))
        assert found[f"last frame repeated, {part}"] == pytest.approx(np.square(inputs - targets).mean())
        assert found[f"mean of the training frames, {part}"] == pytest.approx(np.square(mean - targets).mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "guess"}, "protocol must be one of prediction, recall, got 'guess'"),
        ({"split": "half"}, "split must be one of official, published, speakers, got 'half'"),
        ({"batching": "sorted"}, "batching must be one of by_length, shuffle, got 'sorted'"),
        ({"fractions": (0.5, 0.6, 0.1)}, "fractions must be three positive numbers with sum 1, got .0.5, 0.6, 0.1."),
        ({"fractions": (1.0, 0.0, 0.0)}, "fractions must be three positive numbers with sum 1, got .1.0, 0.0, 0.0."),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        TIMIT(**options)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize("kind", ["NIST", "WAV"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, r"must have 16272 samples, as its header says, got \d+. Copy it again"),
        (lambda path: path.write_bytes(b""), "must be a wave file, got a damaged one .*. Copy it again"),
        (lambda path: path.write_bytes(b"<html>404</html>" * 99), "must be a wave file, got a damaged one"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "must be a wave file, got a damaged one"),
    ],
    ids=["truncated", "empty", "not a wave file", "half a header"],
)
def test_damaged_recording_is_named(kind, damage, message):
    path = Path("one.wav")
    write_wave(path, small_sound("faem0", "sx37")[:16272], kind)
    assert len(read_sound(path)) == min(16272, len(small_sound("faem0", "sx37")))
    write_wave(path, np.resize(small_sound("faem0", "sx37"), 16272), kind)
    damage(path)
    with pytest.raises(DataError, match=f"^one.wav {message}"):
        read_sound(path)


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (
            np.zeros(800, np.int16),
            8000,
            "must have 16000 samples per second, 1 channel and the coding PCM_16, got 8000, 1 and PCM_16",
        ),
        (
            np.zeros((800, 2), np.int16),
            16000,
            "must have 16000 samples per second, 1 channel and the coding PCM_16, got 16000, 2 and PCM_16",
        ),
        (np.zeros(0, np.int16), 16000, "must have 0 samples, as its header says, got 0"),
    ],
)
def test_recording_of_another_format_is_named(sound, rate, message):
    write_wave(Path("one.wav"), sound, rate=rate)
    with pytest.raises(DataError, match=f"^one.wav {message}"):
        read_sound(Path("one.wav"))


def test_unreadable_recording_is_named(monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"^one.wav cannot be read: Permission denied. Make the file readable"):
        read_sound(Path("one.wav"))


@pytest.mark.parametrize("processes", [1, 2])
def test_damaged_recording_stops_the_preparation_without_an_index(processes, capsys):
    write_disc(Path("disc"))
    bad = Path("disc/TRAIN/DR1/MABC0/SX37.WAV")
    whole = bad.read_bytes()
    truncated(bad)
    command = ["prepare", "timit", "--root", "disc", "--out", "out", "--processes", str(processes)]
    assert main(command) == 2
    assert f"error: {bad} must have " in capsys.readouterr().err
    assert not Path("out/timit.json").exists()
    assert not Path("out/training.json").exists()
    bad.write_bytes(whole)
    assert main(command) == 0
    assert Path("out/timit.json").exists()


def test_missing_disc_is_named():
    with pytest.raises(DataError, match="the folder of the TIMIT disc does not exist: nowhere"):
        find_recordings(Path("nowhere"))
    Path("empty/train").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"empty holds no TIMIT\. The LDC's release has folders TRAIN and TEST with DR1 to DR8"
    ):
        find_recordings(Path("empty"))
    write_disc(Path("root/one"))
    write_sample(Path("root/two"))
    with pytest.raises(DataError, match=r"root must hold one TIMIT, got several: root/one, root/two. Use one of them"):
        find_recordings(Path("root"))


def test_sample_under_the_official_split_raises():
    write_sample(Path("data"))
    for speaker in (*SPEAKERS["development"], *SPEAKERS["core_test"]):
        shutil.rmtree(f"data/dr1-{speaker}")
    data = TIMIT("data")
    data.prepare_data()
    with pytest.raises(
        DataError, match=r"has no utterances for validation under the split official.*use --data.split speakers"
    ):
        data.setup()


def test_command_prints_the_prepared_groups(small_timit, capsys):
    assert main(["prepare", "timit", "--root", str(small_timit / "disc"), "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "training              8                 3696" in said
    assert "core_test: 2 of 24 speakers are present: felc0 mdab0" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mnist", "--root", "a", "--out", "b"], "invalid choice: 'mnist'"),
        (["timit", "--out", "b"], "required: --root"),
        (["timit", "--root", "a", "--out", "b", "--dtype", "int8"], "invalid choice: 'int8'"),
        (
            ["timit", "--root", "a", "--out", "b", "--processes", "0"],
            "processes must be an integer of at least 1, got 0",
        ),
        (["timit", "--root", "nowhere", "--out", "b"], "the folder of the TIMIT disc does not exist: nowhere"),
    ],
)
def test_invalid_command_prints_an_error(options, message, capsys):
    assert main(["prepare", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_killed_preparation_is_continued():
    write_disc(Path("disc"))
    sounds = {path: path.read_bytes() for path in Path("disc").rglob("*.WAV")}
    for number in range(1, 60):  # more recordings of the same speakers
        for path, data in sounds.items():
            path.with_name(f"SI{number}.WAV").write_bytes(data)
    command = [sys.executable, "-m", "app", "prepare", "timit", "--root", "disc", "--out", "out", "--processes", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = Path("out/.training.journal")
    while not journal.exists() or journal.read_bytes().count(b"\n") < 40:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("out/training.json").exists()
    kept = journal.read_bytes().count(b"\n") - 1
    assert subprocess.run(command, env=environment).returncode == 0
    assert kept > 0
    (training,) = [file for file in open_timit(Path("out")) if file.name == "training"]
    again = {file.name: file for file in prepare_timit(Path("disc"), Path("again"), processes=1)}
    assert training.utterances == again["training"].utterances


@real
@pytest.mark.data
def test_real_sample_has_the_same_features_in_both_layouts(tmp_path):
    """Write the sample as NIST SPHERE files in the layout of the LDC, and compare the features."""
    recordings = find_recordings(Path(DATA_DIR))
    assert len(recordings) == 16 * 8
    for number, recording in enumerate(recordings):
        sound = (read_sound(recording.path).numpy() * 2**15).astype(np.int16)
        place = f"TRAIN/DR{number % 8 + 1}/{recording.speaker}/{recording.sentence}.WAV"
        write_wave(Path("disc", place.upper()), sound, "NIST")
    own = everything(prepare_timit(Path(DATA_DIR), Path("own")))
    disc = everything(prepare_timit(Path("disc"), Path("ldc")))
    assert own.keys() == disc.keys()
    for name, arrays in own.items():
        for one, other in zip(arrays, disc[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert FeatureFile(Path("own"), "training", SETTINGS).utterances[0].speaker == "faem0"


@real
@pytest.mark.data
def test_real_sample_splits_into_13_1_and_2_speakers():
    data = TIMIT(DATA_DIR, prepared="features", split="speakers", fractions=(0.8, 0.08, 0.12))
    data.prepare_data()
    data.setup()
    assert {part: len(members) for part, members in speakers(data).items()} == {"train": 13, "validation": 1, "test": 2}
    assert data.description["split"] == {"train": 104, "validation": 8, "test": 16}
