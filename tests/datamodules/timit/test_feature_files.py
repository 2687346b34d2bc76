"""Tests of feature files: writing, reading, resuming, errors for damaged files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from datamodules import DataError
from datamodules.timit.feature_files import FeatureFile, write_features

SETTINGS = {"features": 3, "rate": 8000}
NAMES = [("faem0", "si1"), ("faem0", "sx2"), ("mabc0", "si3"), ("mabc0", "sx4")]
ARRAYS = [(np.random.RandomState(n).randn(4 + n, 3), np.random.RandomState(n).rand(20 + n)) for n in range(4)]


class Maker:
    """Yield the arrays, record their numbers, and raise before number ``stop``."""

    def __init__(self, stop: int = 4, error: BaseException | None = None) -> None:
        self.stop, self.error, self.made = stop, error or KeyboardInterrupt(), []

    def __call__(self, first):
        for number in range(first, 4):
            if number == self.stop:
                raise self.error
            self.made.append(number)
            yield ARRAYS[number]


def write(maker=None, dtype="float32", names=NAMES, settings=SETTINGS) -> Maker:
    maker = maker or Maker()
    write_features(Path(), "part", settings, dtype, names, maker)
    return maker


def without_utterances(index: bytes) -> bytes:
    return json.dumps({**json.loads(index), "utterances": []}).encode()


def files() -> set[str]:
    return {path.name for path in Path().iterdir()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
def test_written_arrays_are_read_back(dtype, tolerance):
    write(dtype=dtype)
    assert files() == {"part.json", f"part.{dtype}"}
    file = FeatureFile(Path(), "part", SETTINGS)
    assert [(said.speaker, said.sentence) for said in file.utterances] == NAMES
    for number, (features, sound) in enumerate(ARRAYS):
        found = file[number]
        assert found[0].dtype == dtype
        np.testing.assert_allclose(found[0], features, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(found[1], sound, rtol=tolerance, atol=tolerance)


def test_complete_file_is_left_unchanged():
    write()
    before = Path("part.json").stat().st_mtime_ns
    assert write().made == []
    assert Path("part.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("done", [0, 1, 3])
def test_interrupted_writing_is_continued(done):
    with pytest.raises(KeyboardInterrupt):
        write(Maker(done))
    assert "part.json" not in files()
    assert write().made == list(range(done, 4))
    assert files() == {"part.json", "part.float32"}
    np.testing.assert_array_equal(FeatureFile(Path(), "part", SETTINGS)[3][0], ARRAYS[3][0].astype(np.float32))


@pytest.mark.parametrize(
    ("name", "damage", "kept"),
    [
        (".part.part", lambda data: data + b"half an utterance", 3),
        (".part.part", lambda data: data[:-5], 2),
        (".part.part", lambda data: b"\xff" + data[1:], 0),
        (".part.part", lambda data: b"", 0),
        (".part.journal", lambda data: data[:-3], 2),
        (".part.journal", lambda data: data + b'["mabc0", "s', 3),
        (".part.journal", lambda data: data[:20], 0),
        (".part.journal", lambda data: b"", 0),
    ],
)
def test_partially_written_utterances_are_written_again(name, damage, kept):
    with pytest.raises(KeyboardInterrupt):
        write(Maker(3))
    Path(name).write_bytes(damage(Path(name).read_bytes()))
    assert write().made == list(range(kept, 4))
    file = FeatureFile(Path(), "part", SETTINGS)
    for number, (features, _) in enumerate(ARRAYS):
        np.testing.assert_array_equal(file[number][0], features.astype(np.float32))


def test_unfinished_file_of_other_settings_is_not_continued():
    with pytest.raises(KeyboardInterrupt):
        write(Maker(2))
    assert write(settings=SETTINGS | {"rate": 16000}).made == [0, 1, 2, 3]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_raises_and_keeps_the_finished_part(code):
    with pytest.raises(DataError, match=r"^\. is full .*repeat the command, which continues where it stopped"):
        write(Maker(2, OSError(code, os.strerror(code))))
    assert "part.json" not in files()
    assert write().made == [2, 3]


def test_unwritable_folder_is_named():
    Path("part").write_text("a file")
    with pytest.raises(DataError, match=r"^part cannot be written: Not a directory. Use another folder"):
        write_features(Path("part"), "part", SETTINGS, "float32", NAMES, Maker())


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("part.float32", lambda data: data[:-4], "must hold 152 numbers, got 151"),
        ("part.float32", lambda data: data + b"1234", "must hold 152 numbers, got 153"),
        ("part.float32", lambda data: b"", "cannot be read"),
        ("part.float32", lambda data: data[:200] + b"\xff" + data[201:], "is damaged at faem0 sx2 .wrong checksum"),
        ("part.json", lambda data: data[:50], "part.json is damaged"),
        ("part.json", lambda data: b"[]", "part.json is damaged"),
        (
            "part.json",
            lambda data: data.replace(b"8000", b"9000"),
            "settings of part.json must be .*8000.*, got .*9000",
        ),
        ("part.json", without_utterances, "part.json must list at least one utterance, got none"),
    ],
)
def test_damaged_file_is_named(name, damage, message):
    write()
    whole = Path(name).read_bytes()
    assert damage(whole) != whole
    Path(name).write_bytes(damage(whole))
    with pytest.raises(DataError, match=f"{message}.*Remove . and prepare the data again"):
        FeatureFile(Path(), "part", SETTINGS)


@pytest.mark.parametrize("name", ["part.json", "part.float32"])
def test_missing_file_is_named(name):
    write()
    Path(name).unlink()
    with pytest.raises(DataError, match=f"^{name} cannot be read.*[Pp]repare"):
        FeatureFile(Path(), "part", SETTINGS)


@pytest.mark.parametrize("other", [{"dtype": "float16"}, {"names": NAMES[:3]}])
def test_other_recordings_or_number_type_do_not_overwrite(other):
    write()
    with pytest.raises(DataError, match="prepared from other recordings or with another number type"):
        write(**other)
    assert len(json.loads(Path("part.json").read_text())["utterances"]) == 4
