"""The adding problem.

Shapes: B examples, T steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from datamodules.base import Batch
from datamodules.synthetic.generated import Generated


class Adding(Generated):
    """Adding problem: the sum of the two marked numbers among T, predicted at the last step.

    The first input feature is uniform in [0, 1). The second feature is 1 at one step of each half, drawn uniformly,
    and 0 elsewhere; if T is odd, the second half is the longer one. The target is the sum of the two marked numbers.

    Always predicting the mean, 1, gives a mean squared error of 1/6, the variance of the sum. The task counts as
    solved below 0.01.

    Sources: Hochreiter and Schmidhuber 1997; in this form Arjovsky, Shah and Bengio, "Unitary Evolution Recurrent
    Neural Networks", ICML 2016.

    Args:
        root: Not used.
        batch_size: Sequences in a batch of each process.
        steps: T.
        train_size: Training examples of an epoch.
        validation_size: Validation examples.
        test_size: Test examples.
        seed: Seed of the training examples; None: the seed of the run.

    Raises:
        ValueError: An argument is outside its range.
    """

    input_size = 2
    target_size = 1
    provided_sizes = ("input_size", "target_size")
    solved_below = 0.01

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 50,
        steps: int = 200,
        train_size: int = 10_000,
        validation_size: int = 1_000,
        test_size: int = 5_000,
        seed: int | None = None,
    ) -> None:
        super().__init__(root, batch_size, train_size, validation_size, test_size, seed)
        if steps < 2:
            raise ValueError(f"steps must be an integer of at least 2, got {steps}")
        self.steps = steps
        self.numbers = steps + 2

    @property
    def description(self) -> dict[str, Any]:
        return super().description | {"steps": self.steps}

    def baselines(self) -> dict[str, float]:
        return {"always 1": 1 / 6}

    def rule(self, numbers_BN: np.ndarray) -> Batch:
        values_BT, places_B2 = numbers_BN[:, : self.steps], numbers_BN[:, self.steps :]
        half = self.steps // 2
        rows, first, second = (
            np.arange(len(numbers_BN)),
            (places_B2[:, 0] * half).astype(np.int64),
            half + (places_B2[:, 1] * (self.steps - half)).astype(np.int64),
        )
        marks_BT = np.zeros_like(values_BT)
        marks_BT[rows, first] = marks_BT[rows, second] = 1
        sums_B = values_BT[rows, first] + values_BT[rows, second]
        return {
            "inputs": torch.as_tensor(np.stack([values_BT, marks_BT], -1), dtype=torch.float32),
            "targets": torch.as_tensor(sums_B[:, None], dtype=torch.float32),
        }
