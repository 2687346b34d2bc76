"""Tests of the n-gram baselines against their formulas, word by word."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import log

import numpy as np
import pytest

from datamodules.text import ngrams
from datamodules.text.ngrams import kneser_ney_loss, unigram_loss

V = 9
TRAIN = np.random.RandomState(0).choice(V - 1, 300, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05]).astype(np.int32)
TEXT = np.random.RandomState(1).randint(0, V, 80).astype(np.int32)  # the word V - 1 is not in the training text


def kneser_ney_bigram(train: list[int], v: int, w: int) -> float:
    """Return p(w | v) by the formulas of Kneser and Ney for pairs, from dictionaries of counts."""
    pairs = Counter(pairwise(train))
    before = Counter(b for _, b in pairs)

    def discount(counts) -> float:
        once, twice = (sum(count == k for count in counts) for k in (1, 2))
        return once / (once + 2 * twice) if once else 0.5

    E = discount(before.values())
    q = max(before[w] - E, 0) / len(pairs) + E * len(before) / len(pairs) / V
    after = sum(count for (a, _), count in pairs.items() if a == v)
    if not after:
        return q
    D = discount(pairs.values())
    types = sum(a == v for a, _ in pairs)
    return max(pairs[v, w] - D, 0) / after + D * types / after * q


def test_unigram_equals_the_add_one_frequency():
    counts = Counter(TRAIN.tolist())
    expected = -sum(log((counts[w] + 1) / (300 + V)) for w in TEXT[1:].tolist()) / 79
    assert unigram_loss(TRAIN, TEXT, V) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("block", [7, 2**24])
def test_bigram_equals_interpolated_kneser_ney(block, monkeypatch):
    monkeypatch.setattr(ngrams, "BLOCK", block)
    text = TEXT.tolist()
    expected = -sum(log(kneser_ney_bigram(TRAIN.tolist(), v, w)) for v, w in pairwise(text)) / 79
    assert kneser_ney_loss(TRAIN, TEXT, V, 2) == pytest.approx(expected, rel=1e-12)


def kneser_ney(train: list[int], context: tuple[int, ...], w: int, order: int) -> float:
    """Return p(w | context) by recursion over the orders, from sets of n-grams."""
    grams = [tuple(train[i : i + order]) for i in range(len(train) - order + 1)]
    counts = Counter(grams)
    levels = {order: counts}
    for length in range(order - 1, 0, -1):
        levels[length] = Counter(gram[1:] for gram in set(levels[length + 1]))

    def probability(context: tuple[int, ...]) -> float:
        counts = levels[len(context) + 1]
        lower = probability(context[1:]) if context else 1 / V
        after = [count for gram, count in counts.items() if gram[:-1] == context]
        if not after:
            return lower
        once, twice = (sum(count == k for count in counts.values()) for k in (1, 2))
        D = once / (once + 2 * twice) if once else 0.5
        return (max(counts[(*context, w)] - D, 0) + D * len(after) * lower) / sum(after)

    return probability(context[-(order - 1) :] if order > 1 else ())


@pytest.mark.parametrize("block", [7, 1, 2**24])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order_n_equals_the_recursion(order, block, monkeypatch):
    monkeypatch.setattr(ngrams, "BLOCK", block)
    text = TEXT.tolist()
    expected = -sum(log(kneser_ney(TRAIN.tolist(), tuple(text[:i]), text[i], order)) for i in range(1, 80)) / 79
    assert kneser_ney_loss(TRAIN, TEXT, V, order) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_probabilities_sum_to_one(order):
    for u, v in [(0, 1), (7, 6), (8, 0), (0, 8)]:
        text = [u, v][-(order - 1) :]
        losses = [kneser_ney_loss(TRAIN, np.array([*text, w], np.int32), V, order) * len(text) for w in range(V)]
        before = kneser_ney_loss(TRAIN, np.array(text, np.int32), V, order) if order == 3 else 0
        assert np.exp(before - np.array(losses)).sum() == pytest.approx(1, abs=1e-12)


def test_text_without_rare_pairs():
    """No pair occurs once, so the discounts have no estimate."""
    assert kneser_ney_loss(np.array([0, 1] * 20), np.array([0, 1, 0]), 2, 2) < 0.1


def test_order_is_limited_by_the_codes():
    with pytest.raises(ValueError, match=r"size\*\*order must be below 2\*\*63, got 300000\*\*4"):
        kneser_ney_loss(TRAIN, TEXT, 300_000, 4)
