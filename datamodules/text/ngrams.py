"""Unigram and bigram models of word counts: the baselines of language modeling.

Shapes: N tokens of a text, V words, P distinct pairs of words.
"""

from __future__ import annotations

import numpy as np

BLOCK = 2**24  # pairs counted at a time, to bound memory


def unigram_loss(train_N: np.ndarray, text_N: np.ndarray, size: int) -> float:
    """Return the nats per word of p(w) = (n(w) + 1) / (N + V) on a text without its first word.

    Args:
        train_N: Word numbers of the text in which n counts.
        text_N: Word numbers of the text to predict.
        size: Number of words V.
    """
    counts_V = np.bincount(train_N, minlength=size) + 1
    return float(-np.log(counts_V / counts_V.sum())[text_N[1:]].mean())


def bigram_loss(train_N: np.ndarray, text_N: np.ndarray, size: int) -> float:
    """Return the nats per word of an interpolated Kneser-Ney bigram model on a text without its first word.

    p(w | v) = max(n(v w) - D, 0) / n(v .) + D t(v .) / n(v .) q(w),
    q(w) = max(t(. w) - E, 0) / P + E t(.) / P / V,
    where n counts pairs and t distinct pairs. D = n1 / (n1 + 2 n2), with n1 and n2 the numbers of pairs seen once and
    twice. E is the same for words that follow one and two distinct words. If no word ever follows v, p = q.

    Source: Kneser and Ney, "Improved backing-off for m-gram language modeling", ICASSP 1995; Chen and Goodman, "An
    empirical study of smoothing techniques for language modeling", 1999.

    Args:
        train_N: Word numbers of the text in which n counts.
        text_N: Word numbers of the text to predict.
        size: Number of words V.
    """
    pairs_P, counts_P = _count_pairs(train_N, size)
    first_P, second_P = np.divmod(pairs_P, size)
    after_V = np.bincount(first_P, weights=counts_P, minlength=size)  # n(v .)
    types_after_V = np.bincount(first_P, minlength=size)  # t(v .)
    types_before_V = np.bincount(second_P, minlength=size)  # t(. w)
    discount, lower_discount = _discount(counts_P), _discount(types_before_V)
    q_V = np.maximum(types_before_V - lower_discount, 0) / len(pairs_P)
    q_V += lower_discount * np.count_nonzero(types_before_V) / len(pairs_P) / size

    total, context_V = 0.0, np.maximum(after_V, 1)
    for start in range(0, len(text_N) - 1, BLOCK):
        v, w = (text_N[start + k : start + k + BLOCK].astype(np.int64) for k in (0, 1))
        v = v[: len(w)]
        place = np.minimum(np.searchsorted(pairs_P, v * size + w), len(pairs_P) - 1)
        seen = np.where(pairs_P[place] == v * size + w, counts_P[place], 0)
        rest = np.where(after_V[v] > 0, discount * types_after_V[v] / context_V[v], 1.0)
        total -= np.log(np.maximum(seen - discount, 0) / context_V[v] + rest * q_V[w]).sum()
    return float(total / (len(text_N) - 1))


def _count_pairs(tokens_N: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs v size + w of neighbors v, w in ascending order, and their counts."""
    pairs_P, counts_P = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for start in range(0, len(tokens_N) - 1, BLOCK):
        block = tokens_N[start : start + BLOCK + 1].astype(np.int64)
        pairs, counts = np.unique(block[:-1] * size + block[1:], return_counts=True)
        pairs_P, places = np.unique(np.concatenate([pairs_P, pairs]), return_inverse=True)
        counts_P = np.bincount(places, weights=np.concatenate([counts_P, counts])).astype(np.int64)
    return pairs_P, counts_P


def _discount(counts: np.ndarray) -> float:
    """Return n1 / (n1 + 2 n2), or one half if no count is 1."""
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return once / (once + 2 * twice) if once else 0.5
