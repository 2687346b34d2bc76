"""The state of a cell in numbers: saturation, silence, the spectrum of U, and how long a perturbation is remembered.

Shapes: B batch, T time, I input_size, H hidden_size, G = gates x H, P start times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cells.analysis.gains import gain_report
from cells.analysis.recording import Recording
from cells.cell import Cell
from cells.driven import DrivenCell

SATURATED = 0.1  # a gate is taken for shut below this, for open above 1 minus this (Karpathy et al. 2015)


@dataclass(frozen=True)
class Dynamics:
    """What the state of a cell does on given inputs.

    Attributes:
        gates: For each gate the share of its values below 0.1 and above 0.9, over rows, steps and units.
        zero_units: The share of the outputs that are exactly 0: units that modReLU or ReLU has shut.
        large_units: The share of the outputs beyond +-0.9, where tanh is saturated; None where outputs are not bounded
            by 1.
        spectra: Singular values of the recurrent weight, largest first: one set for each gate block, by its name.
        half_life: For h, and c where there is one, the number of steps after which a small perturbation of it stays
            below half its size: the median over rows and start times; infinite where it had not by the end.
        dc_gain: The gain of the drive for a constant input; None for a cell without drive.
    """

    gates: Mapping[str, tuple[float, float]]
    zero_units: float
    large_units: float | None
    spectra: Mapping[str, Tensor]
    half_life: Mapping[str, float]
    dc_gain: float | None

    def numbers(self) -> dict[str, float]:
        """All of them by name, for charts and tables; what the cell does not have is left out."""
        found = {f"half_life/{part}": steps for part, steps in self.half_life.items()}
        found["zero_units"] = self.zero_units
        if self.large_units is not None:
            found["large_units"] = self.large_units
        for gate, (shut, wide_open) in self.gates.items():
            found |= {f"shut/{gate}": shut, f"open/{gate}": wide_open}
        for block in self.spectra:
            found[f"spectral_norm/{block}"] = self.spectral_norm(block)
            found[f"from_orthogonal/{block}"] = self.from_orthogonal(block)
        if self.dc_gain is not None:
            found["dc_gain"] = self.dc_gain
        return found

    def spectral_norm(self, block: str) -> float:
        """The largest singular value of a block."""
        return float(self.spectra[block][0])

    def from_orthogonal(self, block: str) -> float:
        """||U^T U - I||, the largest |s^2 - 1| over the singular values s: 0 where the block is orthogonal."""
        return float((self.spectra[block] ** 2 - 1).abs().max())


def dynamics(record: Recording, starts: int = 8) -> Dynamics:
    """The numbers of a cell on the inputs of ``record``, which may be in float64 for small perturbations to be seen.

    Args:
        record: At least two steps of a cell.
        starts: Number of start times of perturbations: see :func:`half_life`.
    """
    cell = record.cell
    with torch.no_grad():
        y_TBH = torch.stack([y_BH.detach() for y_BH in record.outputs])
        bounded = bool(y_TBH.abs().max() <= 1)
        return Dynamics(
            gates={name: _shut_and_open(values) for name, values in _gates(record).items()},
            zero_units=_share(y_TBH == 0),
            large_units=_share(y_TBH.abs() > 1 - SATURATED) if bounded else None,
            spectra=recurrent_spectra(cell),
            half_life={part: half_life(record, part, starts) for part in ("h", "c") if part in record.parts()},
            dc_gain=gain_report(cell).dc_gain if isinstance(cell, DrivenCell) else None,
        )


def recurrent_spectra(cell: Cell) -> dict[str, Tensor]:
    """Singular values of each gate block of U, largest first, by the gate's name; nothing where U is not known."""
    if not isinstance(cell, DrivenCell):
        return {}
    with torch.no_grad():
        blocks = torch.split(cell.recurrent_weight(), cell.hidden_size)
        names = cell.gate_names or map(str, range(len(blocks)))
        return {name: torch.linalg.svdvals(block_HH) for name, block_HH in zip(names, blocks, strict=True)}


def half_life(record: Recording, part: str = "h", starts: int = 8, size: float = 1e-6) -> float:
    """Steps after which a perturbation of a part of the state stays below half its size, all else being the same.

    The cell runs on from ``starts`` evenly spaced steps of the first half with the part moved by ``size`` in a random
    direction, the same in every call, and with the same inputs. The difference of the part is followed to the end.

    Args:
        record: At least two steps of a cell.
        part: Name of the part: ``h`` or another of :meth:`cells.analysis.recording.Recording.parts`.
        starts: Number of start times.
        size: Length of the perturbation.

    Returns:
        The median over rows and starts; infinity where half of them had not fallen below half by the end.
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
    """The gates, all steps one after the other."""
    if not isinstance(record.cell, DrivenCell) or not record.drives:
        return {}
    v_NG, u_NG = (torch.cat([part.detach() for part in parts]) for parts in zip(*record.drives, strict=True))
    return record.cell.open_gates(v_NG, u_NG)


def _shut_and_open(values: Tensor) -> tuple[float, float]:
    return _share(values < SATURATED), _share(values > 1 - SATURATED)


def _share(where: Tensor) -> float:
    return where.double().mean().item()
