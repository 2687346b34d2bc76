"""The gains of a cell: how its drive scales the input, the bias of its forget gate, its stability.

A cell may be better than another only because its drive amplifies the input or changes the forget bias. A control
experiment has to match these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log

from cells.cell import Cell
from cells.introspection import InputGain


@dataclass(frozen=True)
class GainReport:
    """The gains of a cell as numbers, and as sentences by ``str``.

    Attributes:
        dc_gain: Value that a constant input a = W x + b_ih of 1 is driven to: s / (1 - mu) for momentum. The mean over
            the channels if momentum or step size are learned for each. None: the gain is undefined for this cell.
        silent_gain: Gain for a constant input near 0. It equals ``dc_gain`` for a linear drive; for others it is up to
            step_size / sqrt(delta) and more.
        forget_bias: Bias that acts on the gate that keeps the state, the mean over the units:
            b_hh + dc_gain b_ih for a linear drive. None: the cell has no such gate.
        growth: Factor by which the drive changes in a step of zero input; above 1 it is unstable. None: the cell has no
            drive, or its growth is not known.
        sentences: The same in sentences.
    """

    dc_gain: float | None
    silent_gain: float | None
    forget_bias: float | None
    growth: float | None
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def gain_report(cell: Cell) -> GainReport:
    """Return the gains of a cell with its current parameters."""
    name = type(cell).__name__
    gain, growth, forget_H = cell.input_gain(), cell.drive_growth(), cell.resting_forget_bias()
    sentences = [
        f"{name} has no drive, so its input gain is undefined." if gain is None else _gain_sentence(name, gain),
        *([] if growth is None else [_growth_sentence(growth)]),
        *cell.gain_notes(),
    ]
    return GainReport(
        None if gain is None else gain.constant,
        None if gain is None else gain.silent,
        None if forget_H is None else forget_H.mean().item(),
        growth,
        tuple(sentences),
    )


def _gain_sentence(name: str, gain: InputGain) -> str:
    if abs(gain.silent - gain.constant) <= 1e-4 * abs(gain.constant):
        return f"{name} multiplies a constant input (W x + b_ih) by {gain.constant:.3g}."
    return (
        f"{name} drives a constant input (W x + b_ih) of 1 to {gain.constant:.3g}, and multiplies one near 0, and its "
        f"gradient, by {gain.silent:.3g}."
    )


def _growth_sentence(growth: float) -> str:
    if growth == 0:
        return "After the input falls to 0 the drive is 0 at once."
    if growth < 1:
        return f"After the input falls to 0 the drive decays within about {-1 / log(growth):.2g} steps: stable."
    if growth == 1:
        return "After the input falls to 0 the drive stays constant: at the limit of stability."
    much = "without limit" if growth == inf else f"by a factor of {growth:.3g} per step"
    return f"UNSTABLE: after the input falls to 0 the drive grows {much}."
