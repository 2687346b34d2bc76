"""N-gram models of token counts: the baselines of language modeling.

Shapes: N tokens of a text, V vocabulary, G distinct n-grams, C distinct contexts of them, B tokens of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK = 2**24  # n-grams counted at a time, to bound memory


def unigram_loss(train_N: np.ndarray, text_N: np.ndarray, size: int) -> float:
    """Return the nats per token of p(w) = (n(w) + 1) / (N + V) on a text without its first token.

    Args:
        train_N: Token numbers of the text in which n counts.
        text_N: Token numbers of the text to predict.
        size: Number of different tokens V.
    """
    counts_V = np.bincount(train_N, minlength=size) + 1
    return float(-np.log(counts_V / counts_V.sum())[text_N[1:]].mean())


class _Order(NamedTuple):
    """Counts of the n-grams of one order. An n-gram w_1 .. w_n has the code w_1 V^(n-1) + .. + w_n.

    Attributes:
        codes: Codes (G,) of the n-grams, ascending.
        counts: Count (G,) of each n-gram.
        contexts: Codes (C,) of w_1 .. w_{n-1}, ascending.
        totals: Sum (C,) of the counts with each context.
        types: Number (C,) of the n-grams with each context.
        discount: What is subtracted from each count.
    """

    codes: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    types: np.ndarray
    discount: float


def kneser_ney_loss(train_N: np.ndarray, text_N: np.ndarray, size: int, order: int) -> float:
    """Return the nats per token of an interpolated Kneser-Ney model of order n on a text without its first token.

    p_k(w | h) = max(c_k(h w) - D_k, 0) / c_k(h .) + D_k t_k(h .) / c_k(h .) p_{k-1}(w | h'), and p_0 = 1 / V.
    h are the k - 1 tokens before w, and h' is h without its first token. c_n counts n-grams in the training text. For
    k < n, c_k counts the distinct tokens before a k-gram. t_k counts the distinct tokens after h, and c_k(h .) is the
    sum of c_k(h w) over w. D_k = n1 / (n1 + 2 n2), with n1 and n2 the numbers of k-grams whose c_k is 1 and 2. If h
    has no count, p_k = p_{k-1}. At the start of the text the context is shorter, and the order lower.

    Source: Kneser and Ney, "Improved backing-off for m-gram language modeling", ICASSP 1995; Chen and Goodman, "An
    empirical study of smoothing techniques for language modeling", 1999.

    Args:
        train_N: Token numbers of the text in which the n-grams are counted.
        text_N: Token numbers of the text to predict.
        size: Number of different tokens V.
        order: Order n: 2 for bigrams.

    Raises:
        ValueError: V to the power of n has more than 63 bits.
    """
    if size**order >= 2**63:
        raise ValueError(f"size**order must be below 2**63, got {size}**{order}")
    codes_G, counts_G = _count_ngrams(train_N, size, order)
    orders = [_with_contexts(codes_G, counts_G, size)]
    for length in range(order - 1, 0, -1):
        codes_G, counts_G = np.unique(codes_G % size**length, return_counts=True)
        orders.insert(0, _with_contexts(codes_G, counts_G, size))

    total = 0.0
    for start in range(1, len(text_N), BLOCK):
        before = min(start, order - 1)  # tokens of the context in front of the block
        window_N = text_N[start - before : start + BLOCK].astype(np.int64)
        p_B = np.full(len(window_N) - before, 1 / size)
        for length, counts in enumerate(orders, start=1):
            missing = max(length - 1 - before, 0)  # the first tokens of the text have no context of this length
            codes_B = _codes(window_N, size, length)[max(before - length + 1, 0) :]
            p_B[missing:] = _interpolate(counts, codes_B, size, p_B[missing:])
        total -= np.log(p_B).sum()
    return float(total / (len(text_N) - 1))


def _interpolate(order: _Order, codes_B: np.ndarray, size: int, lower_B: np.ndarray) -> np.ndarray:
    """Return p_k of n-grams, from ``lower_B``, their p_{k-1}."""
    context_B, known_B = _find(order.contexts, codes_B // size)
    place_B, seen_B = _find(order.codes, codes_B)
    counts_B = np.where(seen_B, order.counts[place_B], 0)
    totals_B = order.totals[context_B]
    p_B = np.maximum(counts_B - order.discount, 0) / totals_B
    p_B += order.discount * order.types[context_B] / totals_B * lower_B
    return np.where(known_B, p_B, lower_B)


def _find(sorted_G: np.ndarray, codes_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a place for each code, and whether the code is there."""
    place_B = np.minimum(np.searchsorted(sorted_G, codes_B), len(sorted_G) - 1)
    return place_B, sorted_G[place_B] == codes_B


def _with_contexts(codes_G: np.ndarray, counts_G: np.ndarray, size: int) -> _Order:
    contexts_C, first_C, types_C = np.unique(codes_G // size, return_index=True, return_counts=True)
    return _Order(codes_G, counts_G, contexts_C, np.add.reduceat(counts_G, first_C), types_C, _discount(counts_G))


def _codes(tokens_N: np.ndarray, size: int, order: int) -> np.ndarray:
    """Return the codes of all n-grams of a text in int64."""
    count = len(tokens_N) - order + 1
    codes = tokens_N[:count].astype(np.int64)
    for place in range(1, order):
        codes = codes * size + tokens_N[place : place + count]
    return codes


def _count_ngrams(tokens_N: np.ndarray, size: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of the n-grams of a text in ascending order, and their counts."""
    codes_G, counts_G = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for start in range(0, len(tokens_N) - order + 1, BLOCK):
        block = _codes(tokens_N[start : start + BLOCK + order - 1], size, order)
        codes, counts = np.unique(block, return_counts=True)
        codes_G, places = np.unique(np.concatenate([codes_G, codes]), return_inverse=True)
        counts_G = np.bincount(places, weights=np.concatenate([counts_G, counts])).astype(np.int64)
    return codes_G, counts_G


def _discount(counts: np.ndarray) -> float:
    """Return n1 / (n1 + 2 n2), or one half if no count is 1."""
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return once / (once + 2 * twice) if once else 0.5
