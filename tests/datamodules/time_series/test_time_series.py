"""Tests of time series: the format, split, scaling, padding, baselines and errors. DATA_DIR holds the real data."""

from __future__ import annotations

import os
from collections import Counter
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_series import CLASSES, HEADER, small_series, ts_line, write_small_series

from datamodules import DataError, TimeSeries
from datamodules.time_series.ts_files import read_ts

DATA_DIR = os.environ.get("DATA_DIR")


@pytest.fixture
def folder(monkeypatch) -> Path:
    monkeypatch.delenv("DATA_DIR", raising=False)
    write_small_series(Path("data"), "Waves")
    return Path("data")


def ready(**options) -> TimeSeries:
    data = TimeSeries(name="Waves", **options)
    data.setup()
    return data


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text(header.format(name="Waves") + "".join(f"{line}\n" for line in lines))
    return path


def test_file_holds_the_series_in_order(folder):
    found = read_ts(folder / "Waves_TRAIN.ts")
    expected = small_series("TRAIN")
    assert found.classes == CLASSES
    assert found.labels == [label for _, label in expected]
    assert all(np.array_equal(array, series) for array, (series, _) in zip(found.series, expected, strict=True))


def test_spaces_comments_and_missing_values_are_read(folder):
    path = write(folder / "file.ts", "", "# a comment", "% another", " 1, ?,-2e1 : 0.5,NaN,4 : high ")
    (series,), labels, _ = read_ts(path)
    np.testing.assert_array_equal(series, [[1, 0.5], [np.nan, np.nan], [-20, 4]])
    assert labels == ["high"]


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (["1,2:1,2:low", "1,2:low"], HEADER, "line 12: a series must have 2 channels like the first, got 1"),
        (["1,2:1:low"], HEADER, r"line 11: the channels of a series must have the same length, got \[1, 2\]"),
        (["1,2:1,2:tall"], HEADER, "line 11: a label must be one of low, middle, high, got 'tall'"),
        (["1,x:1,2:low"], HEADER, "line 11: could not convert string to float: 'x'"),
        (["1,inf:1,2:low"], HEADER, "line 11: values must be finite or [?], got an infinite value"),
        (["1,2::low"], HEADER, "line 11: a series must have values in each channel, got an empty channel"),
        ([], HEADER, "must have at least one series after @data, got none"),
        (["1:1:low"], HEADER.replace("@data\n", ""), "line 10: a header field must start with @, got '1:1:low'"),
        ([], "@problemName {name}\n", "must have a line @data, got none"),
        ([], HEADER.replace("Stamps false", "Stamps true"), "has time stamps .@timestamps true., which are not"),
        (
            [],
            HEADER.replace("@classLabel true low middle high", "@targetLabel true"),
            "must have a field @classLabel true with at least two labels",
        ),
    ],
)
def test_wrong_file_is_refused_with_its_line(lines, header, message, folder):
    with pytest.raises(DataError, match=f"^data/file.ts.*{message}"):
        read_ts(write(folder / "file.ts", *lines, header=header))


def test_validation_has_a_share_of_each_class(folder):
    data = ready(validation_fraction=0.3)
    assert Counter(data.validation.targets.tolist()) == {0: 3, 1: 3, 2: 3}
    assert Counter(data.train.targets.tolist()) == {0: 7, 1: 7, 2: 7}
    assert len(ready(validation_fraction=0.01).validation) == 3
    assert len(ready(validation_fraction=0.99).train) == 3


def test_split_depends_on_its_seed_only(folder, monkeypatch):
    def rows(**options) -> list[tuple[int, float]]:
        data = ready(**options)
        return [(len(x), float(x[0, 1])) for x in data.validation.series]

    first = rows()
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert rows() == first
    assert rows(split_seed=1) != first


def test_channels_are_standardized_by_the_training_series(folder):
    data = ready()
    steps = torch.cat(data.train.series).double()
    torch.testing.assert_close(steps.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(steps.std(0, correction=0), torch.ones(2).double())
    original = [array for array, _ in small_series("TEST")]
    differences = np.concatenate(original)[1:] - np.concatenate(original)[:-1]
    scaled = torch.cat(data.test.series).double().diff(dim=0).numpy()
    assert (differences / scaled).std(0) == pytest.approx(0, abs=1e-2)  # one factor for each channel


def test_constant_channel_is_only_centered(folder):
    lines = [ts_line(np.stack([array[:, 0], np.full(len(array), 3.0)], 1), label)[:-1] for array, label in
             small_series("TRAIN")]  # fmt: skip
    write(folder / "Waves_TRAIN.ts", *lines)
    assert not torch.cat(ready().train.series)[:, 1].any()


def test_batch_is_padded_to_its_longest_series(folder):
    data = ready(batch_size=4)
    batches = [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]
    for batch in batches:
        assert batch["inputs"].shape == (len(batch["targets"]), batch["lengths"].max(), 2)
        for row, length in zip(batch["inputs"], batch["lengths"], strict=True):
            assert row[:length].all()
            assert not row[length:].any()
    first = data.test[0]
    assert torch.equal(first["inputs"], data.test.series[0])
    assert first["targets"] == data.test.targets[0]
    assert sum(len(batch["targets"]) for batch in batches) == 45


def test_missing_values_are_refused_or_interpolated(folder):
    array, label = small_series("TRAIN")[0]
    gaps = array.copy()
    gaps[1:3, 0] = gaps[0, 1] = gaps[-1, 1] = np.nan
    lines = [ts_line(a, name)[:-1] for a, name in small_series("TRAIN")]
    write(folder / "Waves_TRAIN.ts", ts_line(gaps, label)[:-1], *lines[1:])
    with pytest.raises(DataError, match=r"series 1 of Waves_TRAIN.ts has missing values. Use --data.missing inter"):
        ready()
    filled = array.copy()
    filled[1, 0] = array[0, 0] + (array[3, 0] - array[0, 0]) / 3
    filled[2, 0] = array[0, 0] + (array[3, 0] - array[0, 0]) * 2 / 3
    filled[0, 1], filled[-1, 1] = array[1, 1], array[-2, 1]
    found = ready(missing="interpolate")._complete(gaps, "TRAIN", 0)
    np.testing.assert_allclose(found, filled, rtol=1e-12)
    gaps[:, 1] = np.nan
    write(folder / "Waves_TRAIN.ts", ts_line(gaps, label)[:-1], *lines[1:])
    with pytest.raises(DataError, match=r"series 1 of Waves_TRAIN.ts has a channel without any value"):
        ready(missing="interpolate")


def test_baselines_are_those_of_the_class_frequencies(folder):
    data = ready()
    expected = log(3)  # the classes are equally frequent
    parts = ("validation", "test")
    assert data.baselines() == {f"class frequencies, {part}": pytest.approx(expected) for part in parts}
    assert data.description["majority_accuracy"] == {part: pytest.approx(1 / 3) for part in parts}


@pytest.mark.parametrize("place", ["data", "data/Waves", "data/time_series/Waves"])
def test_files_are_found_in_their_folders(place, folder):
    for path in folder.glob("*.ts"):
        Path(place).mkdir(parents=True, exist_ok=True)
        path.rename(Path(place, path.name))
    assert (ready().input_size, ready().num_classes) == (2, 3)


def test_missing_and_inconsistent_files_are_named(folder):
    with pytest.raises(DataError, match=r"Sines_TRAIN.ts is missing .searched as data/Sines/Sines_TRAIN.ts, .*Put it"):
        TimeSeries(name="Sines").setup()
    write(folder / "Waves_TEST.ts", "1,2:low")
    with pytest.raises(DataError, match=r"must have the same channels and classes, got 2 and 1 channels"):
        ready()
    write(folder / "Waves_TRAIN.ts", "1,2:low", "1,2:low", "2,3:high")
    with pytest.raises(DataError, match="must have at least two series of class high"):
        ready()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \(0, 1\), got 1.0"),
        ({"split_seed": -1}, r"split_seed must be an integer in \[0, 2\*\*32\), got -1"),
        ({"missing": "zero"}, "missing must be one of refuse, interpolate, got 'zero'"),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        TimeSeries(**options)


@pytest.mark.data
@pytest.mark.skipif(
    DATA_DIR is None or not Path(DATA_DIR, "JapaneseVowels").is_dir(), reason="DATA_DIR has no JapaneseVowels"
)
def test_japanese_vowels_have_their_published_size():
    data = TimeSeries()
    data.setup()
    assert (len(data.train) + len(data.validation), len(data.test)) == (270, 370)
    assert (data.input_size, data.num_classes) == (12, 9)
    assert (int(data.test.lengths.min()), int(data.test.lengths.max())) == (7, 29)
