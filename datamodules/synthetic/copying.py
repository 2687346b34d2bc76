"""The copying memory problem.

Shapes: B examples, K symbols to be copied, L blanks, T = L + 2 K steps, I features of a step.
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
    """Remember K symbols over L blanks, and say them again when a marker comes: a class for each of T = L + 2 K steps.

    Symbols are drawn from an alphabet of A; class 0 is the blank, 1 to A are the symbols, A + 1 is the marker. Inputs
    are one-hot vectors of A + 2 features. Targets are blanks but for the last K steps, which are the symbols in their
    order; ``scored`` is True at these. With K = 3, L = 4, and _ for a blank:

        input    a b c _ _ _ _ ! _ _        form exprnn: L blanks, the marker, K - 1 blanks
        input    a b c _ _ _ ! _ _ _        form arjovsky: L - 1 blanks, the marker, K blanks
        target   _ _ _ _ _ _ _ a b c

    Whoever knows when to speak but remembers nothing has the mean cross-entropy K ln(A) / T over all steps. The task
    counts as solved below a tenth of it.

    Sources: Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio, "Unitary Evolution Recurrent Neural Networks",
    ICML 2016; the public code of expRNN (Lezcano-Casado and Martinez-Rubio, ICML 2019).

    Args:
        root: Not used: nothing is read.
        batch_size: Sequences in a batch (of each process).
        blanks: L.
        symbols: K.
        alphabet: A.
        form: Where the marker stands: ``exprnn``, at the step of the first answer; ``arjovsky``, one step before.
        train_size: Training examples in what is called an epoch, after which the model is measured.
        validation_size: Validation examples.
        test_size: Test examples.
        seed: Which training examples; None: those of the run's seed.

    Raises:
        ValueError: if an argument lies outside what is accepted.
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
                raise ValueError(f"{name} is {value}; an integer of at least {least} is expected")
        if form not in ("exprnn", "arjovsky"):
            raise ValueError(f"form is {form!r}; 'exprnn' or 'arjovsky' is expected")
        self.blanks, self.symbols, self.alphabet, self.form = blanks, symbols, alphabet, form
        self.numbers = symbols
        self.solved_below = self.baselines()["no memory"] / 10

    @property
    def input_size(self) -> int:
        """Classes of the input: the blank, the symbols and the marker."""
        return self.alphabet + 2

    @property
    def num_classes(self) -> int:
        """Classes of the target: the blank and the symbols."""
        return self.alphabet + 1

    @property
    def steps(self) -> int:
        """T, the length of a sequence."""
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
