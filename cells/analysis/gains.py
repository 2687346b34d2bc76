"""What a cell does to the size of its input: the gain of its drive, the forget bias at rest, stability.

A cell may be better than another only because its drive amplifies the input or moves the forget bias; these are the
numbers to match in the control that is run beside it.

Shapes: G = gates x H.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt

import torch
from torch import Tensor

from cells.cell import Cell
from cells.cores.gated import GatedCore
from cells.cores.gru import GRUCore
from cells.cores.modrelu import ModReLUCore
from cells.driven import DrivenCell
from cells.drives import Momentum
from cells.nesterov import Nesterov


@dataclass(frozen=True)
class GainReport:
    """The gains of a cell in numbers, and in words by ``str``.

    Attributes:
        dc_gain: What a constant a_t = W x_t + b_ih of 1 is driven to: s / (1 - mu) for momentum. Means over the
            channels where momentum or step size are learned for each. None for a cell that is not made of a drive and
            a core: what it does to its input is its own affair.
        silent_gain: The gain for a constant input near 0: the same where the drive is linear, else up to
            step_size / sqrt(delta) and more.
        forget_bias: For LSTM, GRU and JANET the mean over units of what the gate that keeps their state rests on,
            b_hh + dc_gain b_ih if the drive is linear; None for others.
        growth: The factor by which the drive changes in a step when the input falls silent; above 1 it is unstable.
            None for the Nesterov cells and others that have no drive.
        sentences: The same in words.
    """

    dc_gain: float | None
    silent_gain: float | None
    forget_bias: float | None
    growth: float | None
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def gain_report(cell: Cell) -> GainReport:
    """The gains of a cell as it is now, learned numbers and biases as they stand."""
    if not isinstance(cell, DrivenCell):
        nothing = f"{type(cell).__name__} is not made of a drive and a core: what it does to its input is not known."
        return GainReport(None, None, None, None, (nothing,))
    zeros_G = torch.zeros(cell.weight_ih.shape[0], dtype=cell.weight_ih.dtype, device=cell.weight_ih.device)
    with torch.no_grad():
        dc_gain = cell.settled(zeros_G + 1).mean().item()
    with torch.enable_grad():
        silent_G = zeros_G.requires_grad_()
        silent_gain = torch.autograd.grad(cell.settled(silent_G).sum(), silent_G)[0].mean().item()
    forget_H = _forget_bias(cell)
    growth = None if isinstance(cell, Nesterov) else cell.drive.growth()
    sentences = [
        _gain_in_words(cell, dc_gain, silent_gain),
        _memory_in_words(cell, growth),
    ]
    if isinstance(cell.drive, Momentum) and cell.drive.growth() > 0:
        sentences.append("Control to run beside it: the same step_size with momentum 0.")
    if forget_H is not None:
        gate = "forget gate" if not isinstance(cell, GRUCore) else "gate that keeps h"
        sentences.append(
            f"The {gate} rests on a bias of {forget_H.mean():.3g} (from {forget_H.min():.3g} to "
            f"{forget_H.max():.3g}), where it is open by {torch.sigmoid(forget_H).mean():.3g}."
        )
    forget_bias = None if forget_H is None else forget_H.mean().item()
    return GainReport(dc_gain, silent_gain, forget_bias, growth, tuple(sentences))


def _forget_bias(cell: DrivenCell) -> Tensor | None:
    if not isinstance(cell, GatedCore) or cell.bias_ih is None or cell.bias_hh is None:
        return None
    with torch.no_grad():
        return (cell.settled(cell.bias_ih) + cell.bias_hh).view(cell.gates, -1)[cell.keeps]


def _gain_in_words(cell: DrivenCell, dc_gain: float, silent_gain: float) -> str:
    name = type(cell).__name__
    if abs(silent_gain - dc_gain) <= 1e-4 * abs(dc_gain):
        return f"{name} multiplies a constant input (W x + b_ih) by {dc_gain:.3g}."
    return (
        f"{name} drives a constant input (W x + b_ih) of 1 to {dc_gain:.3g}, and one near 0 is multiplied by "
        f"{silent_gain:.3g}, as is its gradient."
    )


def _memory_in_words(cell: DrivenCell, growth: float | None) -> str:
    if growth is None:
        bound = f"; nothing bounds it, it may grow by up to {1 + sqrt(2):.3g} in a step"
        return "The extrapolation takes in h, so it is part of the recurrence" + (
            f"{bound}." if isinstance(cell, ModReLUCore) else ", whose gates bound it."
        )
    if growth == 0:
        return "When the input falls silent the drive is 0 at once."
    if growth < 1:
        return f"When the input falls silent the drive fades within some {-1 / log(growth):.2g} steps: stable."
    if growth == 1:
        return "When the input falls silent the drive stays as large as it was: at the limit of stability."
    much = "without limit" if growth == inf else f"by {growth:.3g} in each step"
    return f"UNSTABLE: momentum is above sqrt(beta); when the input falls silent the drive grows {much}."
