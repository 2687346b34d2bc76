"""The copying memory problem.

Shapes: B examples, K symbols to copy, L blanks, T = L + 2 K steps, I features of a step.
"""

from __future__ import annotations

from math import log
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.base import Batch
from datamodules.synthetic.generated import Generated

BLANK = 0


class Copying(Generated):
    """Copying problem: K symbols are repeated after L blanks, with a class for each of T = L + 2 K steps.

    Symbols are drawn from an alphabet of A. Class 0 is the blank, classes 1 to A are the symbols, and A + 1 is the
    marker. Inputs are one-hot vectors of A + 2 features. Targets are blanks, except for the last K steps, which are
    the symbols in order; ``scored`` is True there. With K = 3, L = 4, and _ for a blank:

        input    a b c _ _ _ _ ! _ _        form exprnn: L blanks, the marker, K - 1 blanks
        input    a b c _ _ _ ! _ _ _        form arjovsky: L - 1 blanks, the marker, K blanks
        target   _ _ _ _ _ _ _ a b c

    A model without memory, which predicts blanks and then uniformly, has a mean cross-entropy of K ln(A) / T over all
    steps. The task counts as solved below a tenth of it.

    Sources: Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio, "Unitary Evolution Recurrent Neural Networks",
    ICML 2016; the public code of expRNN (Lezcano-Casado and Martinez-Rubio, ICML 2019).

    Args:
        root: Not used.
        batch_size: Sequences in a batch of each process.
        blanks: Number of blanks L.
        symbols: Number of symbols K.
        alphabet: Size of the alphabet A.
        form: Position of the marker. ``exprnn``: the step of the first repeated symbol; ``arjovsky``: one step earlier.
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
        batch_size: int = 128,
        blanks: int = 100,
        symbols: int = 10,
        alphabet: int = 8,
        form: Literal["exprnn", "arjovsky"] = "exprnn",
        train_size: int = 12_800,
        validation_size: int = 1_000,
        test_size: int = 5_000,
        seed: int | None = None,
    ) -> None:
        super().__init__(root, batch_size, train_size, validation_size, test_size, seed)
        for name, value, least in (("blanks", blanks, 1), ("symbols", symbols, 1), ("alphabet", alphabet, 2)):
            if value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value}")
        if form not in ("exprnn", "arjovsky"):
            raise ValueError(f"form must be one of exprnn, arjovsky, got {form!r}")
        self.blanks, self.symbols, self.alphabet, self.form = blanks, symbols, alphabet, form
        self.numbers = symbols
        self.solved_below = self.baselines()["no memory"] / 10

    @property
    def input_size(self) -> int:
        """Number of input classes: the blank, the symbols and the marker."""
        return self.alphabet + 2

    @property
    def num_classes(self) -> int:
        """Number of target classes: the blank and the symbols."""
        return self.alphabet + 1

    @property
    def steps(self) -> int:
        """Length T of a sequence."""
        return self.blanks + 2 * self.symbols

    @property
    def description(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("form", "blanks", "symbols", "alphabet", "steps")}
        return super().description | own

    def baselines(self) -> dict[str, float]:
        return {"no memory": self.symbols * log(self.alphabet) / self.steps}

    def rule(self, numbers_BN: np.ndarray) -> Batch:
        symbols_BK = torch.as_tensor((numbers_BN * self.alphabet).astype(np.int64) + 1)
        inputs_BT = symbols_BK.new_full((len(symbols_BK), self.steps), BLANK)
        inputs_BT[:, : self.symbols] = symbols_BK
        inputs_BT[:, self.symbols + self.blanks - (self.form == "arjovsky")] = self.alphabet + 1
        targets_BT = torch.full_like(inputs_BT, BLANK)
        targets_BT[:, -self.symbols :] = symbols_BK
        scored_BT = torch.zeros_like(inputs_BT, dtype=torch.bool)
        scored_BT[:, -self.symbols :] = True
        return {
            "inputs": F.one_hot(inputs_BT, self.input_size).float(),
            "targets": targets_BT,
            "scored": scored_BT,
        }
