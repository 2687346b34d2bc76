"""Multi-query associative recall.

Shapes: B examples, T steps, P pairs, Q queries, S places for queries, N random numbers, V tokens.
"""

from __future__ import annotations

from math import log
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.base import IGNORED, Batch
from datamodules.synthetic.generated import Generated

BLANK = 0


class AssociativeRecall(Generated):
    """Multi-query associative recall (MQAR): P pairs of key and value, then queries, whose answers are the values.

    Tokens are numbered from 0 to V - 1. Token 0 is the blank, tokens 1 to V // 2 - 1 are keys, and all others are
    values. Inputs are one-hot vectors of V features. An example starts with P pairs; their keys are distinct, and so
    are their values. The remaining steps are divided into places of two steps. Q of the places start with a query,
    which is one of the keys. The target at a query is the value of its key. All other steps have no target
    (``IGNORED``), and ``scored`` is True at queries only. With P = 2, keys a and b, values 1 and 2, and blanks:

        input    a 1 b 2 a _ _ _ b _
        target           1       2

    The places are drawn without replacement, the g-th with a weight of power g^(power - 1). Queries are therefore
    mostly near the pairs, and far ones follow a power law. With Q = P each key is queried once. With more queries, all
    keys are queried equally often, up to a random subset. With fewer, a random subset is queried.

    Guessing one of the P values of the example gives a cross-entropy of ln(P). The task counts as solved below 0.05
    nats, which is an accuracy of about 99 %.

    Source: Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", arXiv 2312.04927,
    2023. With ``queries`` null the examples have the distribution of the public code.

    Args:
        root: Not used.
        batch_size: Sequences in a batch of each process.
        steps: T.
        pairs: Number of pairs P.
        queries: Number of queries Q; None: as many as pairs.
        vocabulary_size: Number of tokens V. Inputs take memory in proportion to it.
        power: Exponent of the power law of the places, above 0; 1 is uniform.
        fill: Tokens of the steps that hold neither a pair nor a query. ``random``: uniform over all tokens, so that
            the model cannot see where the queries are; ``blank``: blanks.
        train_size: Training examples of an epoch.
        validation_size: Validation examples.
        test_size: Test examples.
        seed: Seed of the training examples; None: the seed of the run.

    Raises:
        ValueError: An argument is outside its range, or pairs or queries do not fit.
    """

    provided_sizes = ("input_size", "num_classes")
    solved_below = 0.05

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        steps: int = 64,
        pairs: int = 4,
        queries: int | None = None,
        vocabulary_size: int = 64,
        power: float = 0.01,
        fill: Literal["random", "blank"] = "random",
        train_size: int = 12_800,
        validation_size: int = 1_000,
        test_size: int = 3_000,
        seed: int | None = None,
    ) -> None:
        super().__init__(root, batch_size, train_size, validation_size, test_size, seed)
        for name, value in (("pairs", pairs), ("queries", queries)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value}")
        if vocabulary_size < 2 * pairs + 2:
            raise ValueError(
                f"vocabulary_size must be at least {2 * pairs + 2} for {pairs} distinct keys, got {vocabulary_size}"
            )
        if power <= 0:
            raise ValueError(f"power must be above 0, got {power}")
        if fill not in ("random", "blank"):
            raise ValueError(f"fill must be one of random, blank, got {fill!r}")
        self.pairs, self.queries = pairs, pairs if queries is None else queries
        if steps < 2 * (pairs + self.queries):
            raise ValueError(
                f"steps must be at least {2 * (pairs + self.queries)}, two for each pair and each query, got {steps}"
            )
        self.steps, self.vocabulary_size, self.power, self.fill = steps, vocabulary_size, power, fill
        self.places = (steps - 2 * pairs) // 2
        self.numbers = 3 * pairs + self.places + steps  # keys, values, subset of the keys, places, fill

    @property
    def input_size(self) -> int:
        """Number of tokens V."""
        return self.vocabulary_size

    @property
    def num_classes(self) -> int:
        """Number of tokens V, because each of them could be an answer."""
        return self.vocabulary_size

    @property
    def description(self) -> dict[str, Any]:
        names = ("steps", "pairs", "queries", "vocabulary_size", "power", "fill")
        return super().description | {name: getattr(self, name) for name in names}

    def baselines(self) -> dict[str, float]:
        values = self.vocabulary_size - self.vocabulary_size // 2
        return {"any value": log(values), "values of the example": log(self.pairs)}

    def rule(self, numbers_BN: np.ndarray) -> Batch:
        count, half = len(numbers_BN), self.vocabulary_size // 2
        sizes = (self.pairs, self.pairs, self.pairs, self.places)
        keys, values, subset, places, fill_BT = np.split(numbers_BN, np.cumsum(sizes), axis=1)
        keys_BP = 1 + _distinct(keys, half - 1)
        values_BP = half + _distinct(values, self.vocabulary_size - half)
        asked_BQ = self._queried_pairs(subset)
        steps_BQ = 2 * self.pairs + 2 * self._query_places(places)

        inputs_BT = np.full((count, self.steps), BLANK)
        if self.fill == "random":
            inputs_BT = (fill_BT * self.vocabulary_size).astype(np.int64)
        inputs_BT[:, 0 : 2 * self.pairs : 2] = keys_BP
        inputs_BT[:, 1 : 2 * self.pairs : 2] = values_BP
        np.put_along_axis(inputs_BT, steps_BQ, np.take_along_axis(keys_BP, asked_BQ, 1), 1)
        targets_BT = np.full((count, self.steps), IGNORED)
        np.put_along_axis(targets_BT, steps_BQ, np.take_along_axis(values_BP, asked_BQ, 1), 1)
        return {
            "inputs": F.one_hot(torch.as_tensor(inputs_BT), self.vocabulary_size).float(),
            "targets": torch.as_tensor(targets_BT),
            "scored": torch.as_tensor(targets_BT != IGNORED),
        }

    def _queried_pairs(self, numbers_BP: np.ndarray) -> np.ndarray:
        """Return the pair of each query (B, Q): all pairs as often as possible, then a random subset in order."""
        rounds, rest = divmod(self.queries, self.pairs)
        whole_BQ = np.tile(np.arange(self.pairs), (len(numbers_BP), rounds))
        return np.concatenate([whole_BQ, np.sort(_distinct(numbers_BP, self.pairs)[:, :rest], 1)], 1)

    def _query_places(self, numbers_BS: np.ndarray) -> np.ndarray:
        """Return the place of each query (B, Q), drawn one after the other by weight without replacement.

        Each place gets an exponential time whose rate is its weight. The first Q places in the order of these times
        have the distribution of weighted sampling without replacement.
        """
        log_weights_S = (self.power - 1) * np.log(np.arange(1, self.places + 1))
        times_BS = -np.log1p(-numbers_BS) * np.exp(-log_weights_S)
        return np.argsort(times_BS, axis=1, kind="stable")[:, : self.queries]


def _distinct(numbers_BK: np.ndarray, size: int) -> np.ndarray:
    """Return K distinct integers (B, K) in [0, size), uniform over all ordered samples.

    It is the start of the shuffle of Fisher and Yates: one random number for each integer.
    """
    rows = np.arange(len(numbers_BK))
    pool_BS = np.tile(np.arange(size), (len(numbers_BK), 1))
    for place, numbers_B in enumerate(numbers_BK.T):
        other_B = place + (numbers_B * (size - place)).astype(np.int64)
        chosen_B = pool_BS[rows, other_B]
        pool_BS[rows, other_B] = pool_BS[:, place]
        pool_BS[:, place] = chosen_B
    return pool_BS[:, : numbers_BK.shape[1]]
