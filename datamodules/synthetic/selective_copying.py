"""Selective copying.

Shapes: B examples, K symbols to copy, L blanks, T = L + 2 K steps, N = K + L + K random numbers.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.base import IGNORED, Batch
from datamodules.synthetic.generated import Generated

BLANK = 0


class SelectiveCopying(Generated):
    """Selective copying: K symbols at random steps among L blanks are repeated in order in the last K steps.

    Symbols are drawn from an alphabet of A. Class 0 is the blank, classes 1 to A are the symbols, and A + 1 is the
    marker. Inputs are one-hot vectors of A + 2 features: first L + K steps of blanks and symbols, where each choice of
    the K steps is equally likely, then K markers. The target at the k-th marker is the k-th symbol. The other steps
    have no target (``IGNORED``), and ``scored`` is True at the markers only. With K = 3, L = 4, and _ for a blank:

        input    _ a _ _ b c _ ! ! !
        target                 a b c

    The steps between symbols differ from example to example. A recurrence without gates, whose coefficients do not
    depend on its input, cannot skip the blanks.

    A model without memory guesses uniformly and has a cross-entropy of ln A. The task counts as solved below a tenth
    of it.

    Sources: Jing et al., "Gated Orthogonal Recurrent Units: On Learning to Forget", 2017 (the denoising task); in this
    form Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752, 2023, with
    L + K = 4096, K = 16 and 16 classes.

    Args:
        root: Not used.
        batch_size: Sequences in a batch of each process.
        blanks: Number of blanks L.
        symbols: Number of symbols K.
        alphabet: Size of the alphabet A.
        train_size: Training examples of an epoch.
        validation_size: Validation examples.
        test_size: Test examples.
        seed: Seed of the training examples; None: the seed of the run.

    Raises:
        ValueError: An argument is outside its range.
    """

    provided_sizes = ("input_size", "num_classes")

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        blanks: int = 48,
        symbols: int = 16,
        alphabet: int = 14,
        train_size: int = 12_800,
        validation_size: int = 1_000,
        test_size: int = 5_000,
        seed: int | None = None,
    ) -> None:
        super().__init__(root, batch_size, train_size, validation_size, test_size, seed)
        for name, value, least in (("blanks", blanks, 0), ("symbols", symbols, 1), ("alphabet", alphabet, 2)):
            if value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value}")
        self.blanks, self.symbols, self.alphabet = blanks, symbols, alphabet
        self.numbers = 2 * symbols + blanks
        self.solved_below = self.baselines()["no memory"] / 10

    @property
    def input_size(self) -> int:
        """Number of input classes: the blank, the symbols and the marker."""
        return self.alphabet + 2

    @property
    def num_classes(self) -> int:
        """Number of target classes: those of the inputs without the marker."""
        return self.alphabet + 1

    @property
    def steps(self) -> int:
        """Length T of a sequence."""
        return self.blanks + 2 * self.symbols

    @property
    def description(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("blanks", "symbols", "alphabet", "steps")}
        return super().description | own

    def baselines(self) -> dict[str, float]:
        return {"no memory": log(self.alphabet)}

    def rule(self, numbers_BN: np.ndarray) -> Batch:
        symbols_BK = 1 + (numbers_BN[:, : self.symbols] * self.alphabet).astype(np.int64)
        order = np.argsort(numbers_BN[:, self.symbols :], axis=1, kind="stable")  # a random permutation of the steps
        steps_BK = np.sort(order[:, : self.symbols], axis=1)
        inputs_BT = np.full((len(numbers_BN), self.steps), BLANK)
        np.put_along_axis(inputs_BT, steps_BK, symbols_BK, 1)
        inputs_BT[:, -self.symbols :] = self.alphabet + 1
        targets_BT = np.full_like(inputs_BT, IGNORED)
        targets_BT[:, -self.symbols :] = symbols_BK
        return {
            "inputs": F.one_hot(torch.as_tensor(inputs_BT), self.input_size).float(),
            "targets": torch.as_tensor(targets_BT),
            "scored": torch.as_tensor(targets_BT != IGNORED),
        }
