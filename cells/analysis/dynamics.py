"""Statistics of the state of a cell: saturation, zeros, the spectrum of U, and the half-life of a perturbation.

Shapes: B batch, T time, I input_size, H hidden_size, N = T x B rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_unflatten

from cells.analysis.recording import Recording
from cells.cell import Cell

SATURATED = 0.1  # a gate is closed below this value, and open above 1 minus it (Karpathy et al. 2015)


@dataclass(frozen=True)
class Dynamics:
    """Statistics of the state of a cell on given inputs.

    Attributes:
        gates: For each gate the share of its values below 0.1 and above 0.9, over rows, steps and units.
        zero_units: The share of the outputs that are exactly 0: units that modReLU or ReLU has switched off.
        large_units: The share of the outputs beyond +-0.9, where tanh is saturated; None if outputs are not bounded by
            1.
        spectra: Singular values of the blocks of the recurrent weight, largest first, by the name of the block.
        half_life: For h, and c if there is one, the number of steps after which a small perturbation of it stays below
            half its size: the median over rows and start times; infinite if this does not happen before the end.
        dc_gain: Gain for a constant input; None if it is undefined for this cell.
    """

    gates: Mapping[str, tuple[float, float]]
    zero_units: float
    large_units: float | None
    spectra: Mapping[str, Tensor]
    half_life: Mapping[str, float]
    dc_gain: float | None

    def numbers(self) -> dict[str, float]:
        """Return all statistics that the cell has, by name, for charts and tables."""
        found = {f"half_life/{part}": steps for part, steps in self.half_life.items()}
        found["zero_units"] = self.zero_units
        if self.large_units is not None:
            found["large_units"] = self.large_units
        for gate, (closed, wide_open) in self.gates.items():
            found |= {f"shut/{gate}": closed, f"open/{gate}": wide_open}
        for block in self.spectra:
            found[f"spectral_norm/{block}"] = self.spectral_norm(block)
            found[f"from_orthogonal/{block}"] = self.from_orthogonal(block)
        if self.dc_gain is not None:
            found["dc_gain"] = self.dc_gain
        return found

    def spectral_norm(self, block: str) -> float:
        """Return the largest singular value of a block."""
        return float(self.spectra[block][0])

    def from_orthogonal(self, block: str) -> float:
        """Return ||U^T U - I||, the largest |s^2 - 1| over the singular values s: 0 if the block is orthogonal."""
        return float((self.spectra[block] ** 2 - 1).abs().max())


def dynamics(record: Recording, starts: int = 8) -> Dynamics:
    """Return the statistics of a cell on the inputs of ``record``.

    Args:
        record: At least two steps of a cell, in float64 if small perturbations matter.
        starts: Number of start times of perturbations: see :func:`half_life`.
    """
    cell = record.cell
    with torch.no_grad():
        y_TBH = torch.stack([y_BH.detach() for y_BH in record.outputs])
        bounded = bool(y_TBH.abs().max() <= 1)
        gain = cell.input_gain()
        return Dynamics(
            gates={name: _closed_and_open(values) for name, values in _gates(record).items()},
            zero_units=_share(y_TBH == 0),
            large_units=_share(y_TBH.abs() > 1 - SATURATED) if bounded else None,
            spectra=recurrent_spectra(cell),
            half_life={part: half_life(record, part, starts) for part in ("h", "c") if part in record.parts()},
            dc_gain=None if gain is None else gain.constant,
        )


def recurrent_spectra(cell: Cell) -> dict[str, Tensor]:
    """Return the singular values of each block of the recurrent weight, largest first, by the name of the block."""
    with torch.no_grad():
        return {name: torch.linalg.svdvals(block_HH) for name, block_HH in cell.recurrent_blocks().items()}


def half_life(record: Recording, part: str = "h", starts: int = 8, size: float = 1e-6) -> float:
    """Return the steps after which a perturbation of a part of the state stays below half its size.

    The cell runs again from ``starts`` evenly spaced steps of the first half, with the part moved by ``size`` in a
    random direction (the same in every call), and with the same inputs. The difference of the part from the recorded
    one is measured up to the end.

    Args:
        record: At least two steps of a cell.
        part: Name of the part: ``h`` or another of :meth:`cells.analysis.recording.Recording.parts`.
        starts: Number of start times.
        size: Length of the perturbation.

    Returns:
        The median over rows and starts; infinity if half of them have not fallen below half at the end.
    """
    index = record.parts()[part]
    T = len(record.outputs)
    like_BH = record.states[0][index]
    generator = torch.Generator().manual_seed(0)
    found = []
    with torch.no_grad():
        step = record.cell.stepper()
        for start in sorted({round(t) for t in torch.linspace(0, (T - 1) // 2, starts).tolist()}):
            direction_BH = torch.randn(like_BH.shape, generator=generator, dtype=torch.float64).to(like_BH)
            direction_BH = size * direction_BH / direction_BH.norm(dim=1, keepdim=True)
            state = record.state(start, {index: direction_BH})
            lasted_B = like_BH.new_zeros(len(like_BH))
            for t in range(start + 1, T):
                _, state = step(record.inputs[t].detach(), state)
                difference_BH = tree_leaves(state)[index] - record.states[t][index].detach()
                lasted_B = torch.where(difference_BH.norm(dim=1) >= size / 2, float(t - start), lasted_B)
            found.append(torch.where(lasted_B == T - 1 - start, float("inf"), lasted_B + 1))
    return float(torch.cat(found).median())


def _gates(record: Recording) -> dict[str, Tensor]:
    """Return the gates of all steps, which the cell computes at once, as rows of one batch."""
    assert record.spec is not None  # there is a step
    x_NI = torch.cat(record.inputs)
    before = [torch.cat(steps) for steps in zip(*record.states_before, strict=True)]
    return record.cell.gate_openings(x_NI, tree_unflatten(before, record.spec))


def _closed_and_open(values: Tensor) -> tuple[float, float]:
    return _share(values < SATURATED), _share(values > 1 - SATURATED)


def _share(where: Tensor) -> float:
    return where.double().mean().item()
