"""Tests of rows and windows of a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.base import IGNORED
from datamodules.text.streams import Rows, TrainingWindows, Window, Windows

TEXT = np.arange(1000, dtype=np.int32)


@pytest.mark.parametrize(("rows", "world_size"), [(4, 1), (4, 2), (5, 2), (3, 4), (10, 3)])
def test_each_row_is_read_once_in_order(rows, world_size):
    inputs, targets = [], []
    for rank in range(world_size):
        data = Rows(TEXT, rows, rank, world_size)
        batches = [data[window] for window in Windows(data.steps, 7)]
        row_inputs = torch.cat([batch["inputs"] for batch in batches], 1)
        row_targets = torch.cat([batch["targets"] for batch in batches], 1)
        if (row_targets == IGNORED).any():
            assert row_targets.shape == (1, 1000 // rows - 1)  # a process without a row reads blanks
            assert (row_targets == IGNORED).all()
            continue
        inputs.append(row_inputs)
        targets.append(row_targets)
        assert [bool(batch["reset"].all()) for batch in batches] == [True] + [False] * (len(batches) - 1)
        assert not any(batch["reset"].any() for batch in batches[1:])
    expected = torch.arange(1000 // rows * rows).view(rows, -1)
    assert torch.equal(torch.cat(inputs), expected[:, :-1])
    assert torch.equal(torch.cat(targets), expected[:, 1:])


def test_windows_cover_an_epoch_without_gaps():
    windows = TrainingWindows(46_478, 70, seed=3)
    for epoch in range(3):
        cut = windows.windows(epoch)
        assert [window.start for window in cut[1:]] == [window.stop for window in cut[:-1]]
        assert (cut[0].start, cut[-1].stop) == (0, 46_478)
    assert len({tuple(windows.windows(epoch)) for epoch in range(3)}) == 3
    assert windows.windows(1) == TrainingWindows(46_478, 70, seed=3).windows(1)
    assert windows.windows(1) != TrainingWindows(46_478, 70, seed=4).windows(1)


def test_window_lengths_have_the_distribution_of_awd_lstm():
    cut = TrainingWindows(2_000_000, 70).windows(0)[:-1]
    lengths = np.array([window.stop - window.start for window in cut])
    short = lengths < 52
    assert short.mean() == pytest.approx(0.05, abs=0.005)  # 3 standard errors
    assert lengths[~short].mean() == pytest.approx(69.5, abs=0.1)  # N(70, 5) rounded down
    assert lengths[~short].std() == pytest.approx(5.0, abs=0.1)
    assert lengths[short].mean() == pytest.approx(34.5, abs=0.5)
    few = TrainingWindows(10_000, 5).windows(0)[:-1]
    assert min(window.stop - window.start for window in few) == 5


def test_windows_of_constant_length():
    assert TrainingWindows(20, 8, random=False).windows(0) == [Window(0, 8), Window(8, 16), Window(16, 20)]
    assert list(Windows(20, 8)) == [Window(0, 8), Window(8, 16), Window(16, 20)]
    assert len(Windows(20, 8)) == 3
    assert len(Windows(16, 8)) == 2


def test_reading_resumes_within_an_epoch():
    windows = TrainingWindows(1000, 20, seed=1)
    windows.epoch, windows.start = 2, 5
    assert list(windows) == windows.windows(2)[5:]
    windows.set_epoch(2)  # Lightning sets the same epoch again
    assert list(windows) == windows.windows(2)[5:]
    windows.set_epoch(3)
    assert list(windows) == windows.windows(3)
