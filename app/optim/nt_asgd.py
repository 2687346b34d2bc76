"""NT-ASGD: stochastic gradient descent that starts averaging when validation stops improving."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

from cells.validation import positive_int


class NTASGD(SGD):
    """Non-monotonically triggered averaged SGD (NT-ASGD).

    Each step is a step of SGD. Once averaging has started, the optimizer also keeps the average of the weights,

        w_avg = (w_2 + .. + w_K) / (K - 1) over the K steps since the start (w_1 for K = 1),

    as torch.optim.ASGD(t0=0, lambd=0) does. Averaging starts after a validation whose loss is worse than the best loss
    of all validations but the last ``nonmonotone`` ones. Training continues from the weights, not from the average.

    Every task has the callback :class:`app.callbacks.averaging.AveragedWeights`, which reports validation losses to
    this optimizer, evaluates the average, and saves it in checkpoints.

    Source: Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018.

    Args:
        params: Parameters, or groups of parameters.
        lr: Learning rate.
        weight_decay: Factor of the L2 penalty.
        nonmonotone: Number of most recent validations that the trigger leaves out.
        lagged_lr: Whether each step since the start of averaging uses the learning rate of the step before it, as
            torch.optim.ASGD does; the first of these steps uses its own. The published results were obtained with
            this lag. It matters only where the learning rate changes from step to step.

    Raises:
        ValueError: If ``nonmonotone`` is not a positive integer.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 30.0,
        weight_decay: float = 0.0,
        nonmonotone: int = 5,
        lagged_lr: bool = False,
    ) -> None:
        positive_int("nonmonotone", nonmonotone)
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        own = {"nonmonotone": nonmonotone, "lagged_lr": lagged_lr}
        self.defaults |= own
        for group in self.param_groups:  # state_dict() saves what is in the groups
            group |= {**own, "losses": [], "averaging": False, "iterates": 0, "previous_lr": None}

    def validated(self, loss: float) -> None:
        """Record the loss of a validation, and start averaging if it triggers it."""
        for group in self.param_groups:
            earlier = group["losses"][: -group["nonmonotone"]]
            group["averaging"] = group["averaging"] or bool(earlier and loss > min(earlier))
            group["losses"] = [*group["losses"], loss]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of SGD, then update the average if averaging has started."""
        rates = [group["lr"] for group in self.param_groups]
        averaging = [group for group in self.param_groups if group["averaging"]]
        for group in averaging:
            if group["lagged_lr"]:
                own, lagged = group["lr"], group["previous_lr"]
                group["lr"], group["previous_lr"] = own if lagged is None else lagged, own
        loss = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        for group in averaging:
            self._update_average(group)
        return loss

    def _update_average(self, group: dict[str, Any]) -> None:
        group["iterates"] += 1
        parameters = [parameter for parameter in group["params"] if parameter.requires_grad]
        if group["iterates"] == 1:
            for parameter in parameters:
                self.state[parameter]["average"] = parameter.detach().clone()
        else:
            averages = [self.state[parameter]["average"] for parameter in parameters]
            torch._foreach_lerp_(averages, parameters, 1 / (group["iterates"] - 1))
