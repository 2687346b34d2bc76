"""Tests of Speech Commands on small wave files: parts, raw sound, spectra, scaling, errors."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.fake_speech_commands import FOLDER, FREQUENCIES, SPEAKERS, small_sound, write_small_speech_commands
from scipy.signal import stft

from datamodules import DataError, SpeechCommands


@pytest.fixture
def folder(monkeypatch) -> Path:
    monkeypatch.delenv("DATA_DIR", raising=False)
    write_small_speech_commands(Path("data"))
    return Path("data", FOLDER)


def ready(**options) -> SpeechCommands:
    data = SpeechCommands(**options)
    data.setup()
    return data


def test_parts_are_those_of_the_lists(folder):
    data = ready()
    assert data.words == ["no", "up", "yes"]
    parts = {part: getattr(data, part) for part in ("train", "validation", "test")}
    speakers = {part: {clip.path.name[:2] for clip in dataset.clips} for part, dataset in parts.items()}
    assert speakers == {"train": set(SPEAKERS[:4]), "validation": {SPEAKERS[4]}, "test": {SPEAKERS[5]}}
    for part, count in (("train", 12), ("validation", 3), ("test", 3)):
        assert len(parts[part]) == count
        assert all(data.words[clip.target] == clip.path.parent.name for clip in parts[part].clips)


def test_raw_sound_is_padded_or_cut_to_one_second(folder):
    data = ready(form="raw")
    assert data.input_size == 1
    lengths = set()
    for dataset in (data.train, data.test):
        features = dataset.features(range(len(dataset)))
        assert features.shape == (len(dataset), 16_000, 1)
        for clip, found in zip(dataset.clips, features[..., 0], strict=True):
            sound = small_sound(clip.path.parent.name, clip.path.name[:2]) / 2**15
            lengths.add(len(sound))
            expected = np.concatenate([sound, np.zeros(16_000)])[:16_000]
            np.testing.assert_allclose(found, expected, atol=1e-7)
    assert min(lengths) < 16_000 < max(lengths)


def test_raw_sound_is_resampled(folder):
    data = ready(form="raw", rate=4_000)
    index = next(i for i, clip in enumerate(data.train.clips) if "yes/0a" in str(clip.path))
    found = data.train.features([index])[0, :, 0].numpy()
    expected = 3_000 / 2**15 * np.sin(2 * np.pi * FREQUENCIES["yes"] * np.arange(4_000) / 4_000)
    assert found.shape == (4_000,)
    np.testing.assert_allclose(found[100:1900], expected[100:1900], atol=2e-3)


def test_spectra_equal_scipy(folder):
    data = ready()
    assert data.input_size == 40
    found = data.test.features([0])[0].double().numpy()
    clip = data.test.clips[0]
    sound = np.pad(small_sound(clip.path.parent.name, clip.path.name[:2]) / 2**15, (0, 16_000))[:16_000]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(sound, 200, mode="reflect")
    _, _, spectrum = stft(padded, window=window, nperseg=400, noverlap=240, boundary=None, padded=False)
    power = np.abs(spectrum * window.sum()) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hertz = np.arange(201) * 40
    rise = (hertz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - hertz[:, None]) / (edges[2:] - edges[1:-1])
    expected = np.log(power.T @ np.maximum(np.minimum(rise, fall), 0) + 1e-6)
    assert found.shape == expected.shape == (101, 40)
    np.testing.assert_allclose(found, expected, atol=2e-2)  # float32 against float64 near the floor


@pytest.mark.parametrize("form", ["raw", "spectra"])
def test_features_are_standardized_by_the_training_sounds(form, folder):
    data = ready(form=form)
    inputs = data.train.__getitems__(range(12))["inputs"].double()
    torch.testing.assert_close(inputs.mean((0, 1)), torch.zeros(data.input_size).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs.std((0, 1)), torch.ones(data.input_size).double(), atol=1e-3, rtol=0)
    assert torch.equal(data.test.mean, data.train.mean)
    assert torch.equal(data.train[3]["inputs"], data.train.__getitems__([3])["inputs"][0])


def test_words_and_number_of_sounds_can_be_chosen(folder):
    data = ready(words=["yes", "no"], train_size=5)
    assert (data.num_classes, len(data.train), len(data.test)) == (2, 5, 2)
    assert {clip.path.parent.name: clip.target for clip in data.test.clips} == {"yes": 0, "no": 1}
    with pytest.raises(DataError, match="has no folder for stop; it has no, up, yes"):
        ready(words=["yes", "stop"])
    with pytest.raises(DataError, match="train_size must be at most 12, got 13"):
        ready(train_size=13)


def test_baselines_are_those_of_the_class_frequencies(folder):
    data = ready()
    assert data.baselines() == {f"class frequencies, {part}": pytest.approx(log(3)) for part in ("validation", "test")}
    assert data.description["majority_accuracy"]["test"] == pytest.approx(1 / 3)


def test_missing_and_wrong_files_are_named(folder):
    path = folder / "yes/0a_nohash_0.wav"
    for sound, rate, message in [
        (np.zeros((100, 2)), 16_000, r"must have one channel at 16000 Hz, got shape \(100, 2\) at 16000 Hz"),
        (np.zeros(100), 8_000, r"got shape \(100,\) at 8000 Hz"),
    ]:
        soundfile.write(path, sound, rate)
        with pytest.raises(DataError, match=f"yes/0a_nohash_0.wav {message}|{message}"):
            ready()
    path.write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"0a_nohash_0.wav cannot be read"):
        ready()
    (folder / "validation_list.txt").write_text("")
    with pytest.raises(DataError, match="must have recordings of each part, got none for validation"):
        ready()
    (folder / "validation_list.txt").unlink()
    with pytest.raises(DataError, match=r"validation_list.txt cannot be read"):
        ready()
    with pytest.raises(DataError, match=r"Speech Commands is missing .searched nowhere/SpeechCommands/.*testing_list"):
        ready(root="nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "mfcc"}, "form must be one of raw, spectra, got 'mfcc'"),
        ({"form": "raw", "rate": 16_001}, r"rate must be an integer in \[1, 16000\], got 16001"),
        ({"rate": 8_000}, "rate must be 16000 for form spectra, got 8000"),
        ({"words": ["yes", "yes"]}, "words must be at least two different words, or null for all"),
        ({"words": ["yes"]}, "words must be at least two different words, or null for all"),
        ({"train_size": 0}, "train_size must be an integer of at least 1, got 0"),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        SpeechCommands(**options)
