"""Tests of the n-gram baselines against their formulas, word by word."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import log

import numpy as np
import pytest

from datamodules.text import ngrams
from datamodules.text.ngrams import bigram_loss, unigram_loss

V = 9
TRAIN = np.random.RandomState(0).choice(V - 1, 300, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05]).astype(np.int32)
TEXT = np.random.RandomState(1).randint(0, V, 80).astype(np.int32)  # the word V - 1 is not in the training text


def kneser_ney(train: list[int], v: int, w: int) -> float:
    """Return p(w | v) by the formula of the docstring, from dictionaries of counts."""
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
    expected = -sum(log(kneser_ney(TRAIN.tolist(), v, w)) for v, w in pairwise(text)) / 79
    assert bigram_loss(TRAIN, TEXT, V) == pytest.approx(expected, rel=1e-12)


def test_probabilities_sum_to_one():
    for v in range(V):
        total = sum(np.exp(-bigram_loss(TRAIN, np.array([v, w], np.int32), V)) for w in range(V))
        assert total == pytest.approx(1, abs=1e-12)


def test_text_without_rare_pairs():
    """No pair occurs once, so the discounts have no estimate."""
    assert bigram_loss(np.array([0, 1] * 20), np.array([0, 1, 0]), 2) < 0.1
