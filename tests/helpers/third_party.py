"""A core, a drive, a cell, a task and a data module as a user writes them, in a file outside the packages.

Shapes: B batch, T time, C channels, H hidden_size, G = gates x H, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.tasks import Task
from app.tasks.base import CellFactory, Part, StepOutput
from cells import DrivenCell
from cells.cores.torch_core import TorchCore
from cells.drives import Drive
from datamodules import Batch, DataModule
from datamodules.base import TensorsDataset


class LeakyState(NamedTuple):
    """h of shape (B, H)."""

    h: Tensor


class LeakyCore(TorchCore):
    """h_t = (1 - rate) h_{t-1} + rate tanh(v_t + u_t).

    Args:
        rate: Fraction of h that a step replaces.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, *, rate: float = 0.5, **core: Any) -> None:
        super().__init__(input_size, hidden_size, **core)
        self.rate = rate

    def initial_core_state(self, zeros_BH: Tensor) -> LeakyState:
        return LeakyState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: LeakyState) -> tuple[Tensor, LeakyState]:
        h_BH = (1 - self.rate) * state.h + self.rate * torch.tanh(v_BG + u_BG)
        return h_BH, LeakyState(h_BH)


class SignDrive(Drive):
    """v_t = sign(p_t) sqrt(abs(p_t) + 1e-6), p_t = (p_{t-1} + a_t) / 2."""

    def initial_state(self, zeros_BC: Tensor) -> Tensor:
        return zeros_BC

    def step(self, a_BC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        p_BC = (state + a_BC) / 2
        return torch.sign(p_BC) * torch.sqrt(p_BC.abs() + 1e-6), p_BC


class SignLeaky(DrivenCell, LeakyCore):
    """A leaky tanh network on the signed root of its averaged input."""

    def __init__(self, input_size: int, hidden_size: int, **core: Any) -> None:
        super().__init__(input_size, hidden_size, drive=SignDrive(), **core)


class Signs(DataModule):
    """Sequences of noise around +1 or -1 in each of two features; the class says which signs these are."""

    input_size = 2
    num_signs = 4
    provided_sizes = ("input_size", "num_signs")

    def setup(self, stage: str | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        targets = torch.arange(256) % 4
        signs = torch.stack([targets % 2, targets // 2], -1) * 2.0 - 1
        inputs = signs[:, None] + torch.randn(256, 10, 2, generator=generator)
        self.train, self.validation, self.test = (
            TensorsDataset(inputs=inputs[part], targets=targets[part])
            for part in (slice(128), slice(128, 192), slice(192, 256))
        )


class SignClassifier(Task):
    """Classification from the mean of all outputs."""

    required_sizes = ("input_size", "num_signs")
    monitor = "validation/loss"
    mode = "min"

    def __init__(self, cell: CellFactory, input_size: int, num_signs: int, hidden_size: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell = cell(input_size, hidden_size)
        self.head = nn.Linear(hidden_size, num_signs)
        self.keep_hyperparameters(self.cell, input_size=input_size, num_signs=num_signs, hidden_size=hidden_size)

    def shared_step(self, batch: Batch, part: Part) -> StepOutput:
        logits_BK = self.head(self.cell(batch["inputs"])[0].mean(1))
        accuracy = (logits_BK.argmax(-1) == batch["targets"]).to(self.metric_dtype).mean()
        count = len(logits_BK)
        loss = F.cross_entropy(logits_BK, batch["targets"])
        return StepOutput(loss, logits_BK, count, metrics={"accuracy": (accuracy, count)})
