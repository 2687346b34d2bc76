"""Public names, keys of state dictionaries and command-line options do not change unnoticed.

Configurations, checkpoints and programs of users depend on them. The lists in tests/project/frozen/ are written by

    PYTHONPATH=.:tests python -m helpers.freeze
"""

from __future__ import annotations

import pytest
from helpers import freeze


@pytest.mark.parametrize("name", freeze.LISTS)
def test_interface_is_unchanged(name):
    frozen = set((freeze.FROZEN / name).read_text().splitlines())
    current = set(freeze.LISTS[name]())
    assert current == frozen, (
        f"the program differs from tests/project/frozen/{name}.\n"
        f"Removed: {sorted(frozen - current)}\nAdded: {sorted(current - frozen)}\n"
        "A removal breaks configurations, checkpoints or programs of users. If the change is intended, describe it in "
        "CHANGELOG.md and run: PYTHONPATH=.:tests python -m helpers.freeze"
    )


def test_lists_cover_every_kind():
    """A list that is empty in part would let changes pass."""
    names, keys, options = (set(found()) for found in freeze.LISTS.values())
    assert {"cells.MomentumLSTM", "datamodules.MNIST", "app.NTASGD", "app.tasks.LanguageModel"} <= names
    assert {
        "LSTM weight_ih 16x3",
        "MomentumLSTM(learn=unit) drive.momentum.raw 16",
        "FrameRegressor head.bias 2",
    } <= keys
    expected = {"fit --run_dir", "test --ckpt_path", "generate --prompt", "MomentumLSTM momentum", "MNIST permutation"}
    assert expected | {"LanguageModel embedding_size"} <= options
