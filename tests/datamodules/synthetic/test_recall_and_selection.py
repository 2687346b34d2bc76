"""Tests of associative recall and selective copying: each answer is found again by reading the inputs."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import log

import numpy as np
import pytest
import torch

from app.tasks import FrameClassifier
from cells import GRU
from datamodules import AssociativeRecall, SelectiveCopying
from datamodules.base import IGNORED


def examples(data: AssociativeRecall | SelectiveCopying, part: str = "train") -> dict[str, np.ndarray]:
    """Return all examples of a part, with token numbers as inputs."""
    data.setup()
    dataset = getattr(data, part)
    batch = dataset.__getitems__(range(len(dataset)))
    assert (batch["inputs"].sum(-1) == 1).all()
    return {"inputs": batch["inputs"].argmax(-1).numpy(), **{k: batch[k].numpy() for k in ("targets", "scored")}}


RECALLS = [
    {"steps": 64, "pairs": 4},
    {"steps": 17, "pairs": 3, "queries": 2, "vocabulary_size": 8, "fill": "blank"},
    {"steps": 41, "pairs": 2, "queries": 7, "vocabulary_size": 21},
    {"steps": 8, "pairs": 2, "vocabulary_size": 6, "power": 3.0},  # no step is left over
]


@pytest.mark.parametrize("options", RECALLS, ids=str)
def test_answer_of_each_query_is_the_value_of_its_key(options):
    data = AssociativeRecall(**options, train_size=300)
    found, pairs, size = examples(data), options["pairs"], data.vocabulary_size
    queries = options.get("queries", pairs)
    assert found["inputs"].shape == (300, options["steps"])
    for tokens, targets, scored in zip(found["inputs"], found["targets"], found["scored"], strict=True):
        known = dict(zip(tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2], strict=True))
        assert len(known) == len(set(known.values())) == pairs
        assert all(1 <= key < size // 2 <= value < size for key, value in known.items())
        asked = [step for step, target in enumerate(targets) if target != IGNORED]
        assert len(asked) == queries
        assert all(step >= 2 * pairs and step % 2 == 0 for step in asked)
        assert [known[tokens[step]] for step in asked] == [targets[step] for step in asked]
        assert scored.tolist() == [step in asked for step in range(len(tokens))]
        times_asked = Counter(tokens[step] for step in asked)
        assert {times_asked[key] for key in known} <= {queries // pairs, -(-queries // pairs)}
        if options.get("fill") == "blank":
            rest = set(range(2 * pairs, len(tokens))) - set(asked)
            assert not tokens[list(rest)].any()


def test_keys_values_and_fill_are_uniform():
    data = AssociativeRecall(steps=20, pairs=2, vocabulary_size=12, train_size=6000)
    found = examples(data)
    places = {"keys": (found["inputs"][:, [0, 2]], 1, 6), "values": (found["inputs"][:, [1, 3]], 6, 12)}
    fill = found["inputs"][:, 5::2]  # no query is at an odd step
    for tokens, first, end in (*places.values(), (fill, 0, 12)):
        counts = np.bincount(tokens.ravel(), minlength=12)
        share = 1 / (end - first)
        assert counts.sum() == counts[first:end].sum()
        assert abs(counts[first:end] / counts.sum() - share).max() < 5 * (share * (1 - share) / counts.sum()) ** 0.5
    ordered = Counter(map(tuple, found["inputs"][:, [0, 2]].tolist()))
    assert set(ordered) == set(permutations(range(1, 6), 2))
    assert max(ordered.values()) < 6000 / 20 + 5 * (6000 / 20) ** 0.5


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_places_of_queries_follow_the_power_law(power):
    data = AssociativeRecall(steps=26, pairs=2, power=power, train_size=20_000)
    found = examples(data)
    keys, queried = found["inputs"][:, [0, 2]], found["scored"]
    first, second = (
        (((found["inputs"] == keys[:, [k]]) & queried).argmax(1) - 4) // 2  # one query of each key
        for k in (0, 1)
    )
    weights = np.arange(1, 12) ** (power - 1)
    joint = weights[:, None] * weights / (weights.sum() * (weights.sum() - weights[:, None]))  # drawn one by one
    np.fill_diagonal(joint, 0)
    assert joint.sum() == pytest.approx(1)
    shares = np.zeros((11, 11))
    np.add.at(shares, (first, second), 1 / 20_000)
    assert (abs(shares - joint) <= 5 * (joint * (1 - joint) / 20_000) ** 0.5).all()


def test_subset_of_the_keys_is_queried_uniformly():
    found = examples(AssociativeRecall(steps=20, pairs=4, queries=2, fill="blank", train_size=6000))
    steps = np.sort(np.argsort(~found["scored"], axis=1, kind="stable")[:, :2], axis=1)
    queries = np.take_along_axis(found["inputs"], steps, 1)
    asked = (found["inputs"][:, None, :8:2] == queries[:, :, None]).argmax(-1)
    counts = Counter(map(frozenset, asked.tolist()))
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts.values()) < 5 * (6000 * 5 / 36) ** 0.5


def test_recall_baselines_are_the_losses_of_guessing():
    data = AssociativeRecall(pairs=4, vocabulary_size=64)
    assert data.baselines() == {"any value": pytest.approx(log(32)), "values of the example": pytest.approx(log(4))}


@pytest.mark.parametrize("sizes", [(4, 3, 8), (0, 4, 2), (20, 1, 5)], ids=str)
def test_selected_symbols_are_repeated_in_order(sizes):
    blanks, symbols, alphabet = sizes
    found = examples(SelectiveCopying(blanks=blanks, symbols=symbols, alphabet=alphabet, train_size=500))
    assert found["inputs"].shape == (500, blanks + 2 * symbols)
    for tokens, targets, scored in zip(found["inputs"], found["targets"], found["scored"], strict=True):
        seen = [token for token in tokens[:-symbols] if token]
        assert len(seen) == symbols
        assert max(seen) <= alphabet
        assert set(tokens[-symbols:]) == {alphabet + 1}
        assert targets.tolist() == [IGNORED] * (blanks + symbols) + seen
        assert scored.tolist() == [target != IGNORED for target in targets]


def test_symbols_and_their_steps_are_uniform():
    found = examples(SelectiveCopying(blanks=5, symbols=3, alphabet=4, train_size=8000))
    counts = np.bincount(found["targets"][:, -3:].ravel(), minlength=5)
    assert counts[0] == 0
    assert abs(counts[1:] - 6000).max() < 5 * (24_000 * 3 / 16) ** 0.5
    chosen = Counter(map(tuple, (found["inputs"][:, :8] > 0).tolist()))
    assert len(chosen) == 56
    assert max(chosen.values()) < 8000 / 56 + 5 * (8000 / 56) ** 0.5


def test_selective_copying_baseline_is_the_loss_of_guessing():
    data = SelectiveCopying(alphabet=14)
    assert data.baselines() == {"no memory": pytest.approx(log(14))}
    assert data.solved_below == pytest.approx(log(14) / 10)


@pytest.mark.parametrize("make", [AssociativeRecall, SelectiveCopying])
def test_seed_changes_training_examples_only(make):
    one, same, other = (examples(make(seed=seed, train_size=20))["inputs"] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    tests = [examples(make(seed=seed, test_size=20), "test")["inputs"] for seed in (1, 2)]
    assert np.array_equal(*tests)
    assert not np.array_equal(tests[0], one)


@pytest.mark.parametrize("make", [AssociativeRecall, SelectiveCopying])
def test_loss_and_accuracy_count_steps_with_a_target(make):
    data = make(train_size=7)
    data.setup()
    batch = data.train.__getitems__(range(7))
    task = FrameClassifier(GRU, data.input_size, data.num_classes, hidden_size=5).double()
    step = task.shared_step({**batch, "inputs": batch["inputs"].double()}, "probe")
    scored = batch["scored"]
    log_probabilities = step.outputs.log_softmax(-1)[scored]
    expected = -log_probabilities.gather(1, batch["targets"][scored][:, None]).mean()
    torch.testing.assert_close(step.loss, expected)
    assert step.weight == step.metrics["accuracy"][1] == int(scored.sum())


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (AssociativeRecall, {"pairs": 0}, "pairs must be an integer of at least 1, got 0"),
        (AssociativeRecall, {"queries": 0}, "queries must be an integer of at least 1, got 0"),
        (
            AssociativeRecall,
            {"vocabulary_size": 9},
            "vocabulary_size must be at least 10 for 4 distinct keys, got 9",
        ),
        (AssociativeRecall, {"power": 0.0}, r"power must be above 0, got 0.0"),
        (AssociativeRecall, {"fill": "zeros"}, "fill must be one of random, blank, got 'zeros'"),
        (AssociativeRecall, {"steps": 15}, "steps must be at least 16, two for each pair and each query, got 15"),
        (SelectiveCopying, {"blanks": -1}, "blanks must be an integer of at least 0, got -1"),
        (SelectiveCopying, {"symbols": 0}, "symbols must be an integer of at least 1, got 0"),
        (SelectiveCopying, {"alphabet": 1}, "alphabet must be an integer of at least 2, got 1"),
    ],
)
def test_invalid_arguments_raise(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
