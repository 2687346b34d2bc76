"""What the forward pass keeps for the backward pass, and what is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cells.engines.fused.derivatives import StageExpressions, is_cheap
from cells.engines.fused.schedule import Schedule


@dataclass(frozen=True)
class Kept:
    """What the forward pass keeps for the backward pass.

    Attributes:
        leaves: For each leaf of the state, whether it is kept at every step, or only at the start of each chunk.
        accumulators: For each accumulator, whether it is kept at every step, or computed again.
    """

    leaves: tuple[bool, ...]
    accumulators: tuple[bool, ...]


def choose_kept(schedule: Schedule, stages: Sequence[StageExpressions]) -> Kept:
    """Decide what is kept: what takes long to compute again."""
    next_leaves = stages[-1].outputs[1:]
    leaves = tuple(
        not leaf.is_floating_point() or not is_cheap(blocks)
        for leaf, blocks in zip(schedule.leaves, next_leaves, strict=True)
    )
    accumulators = tuple(
        bool(accumulator.by_step)
        or 16 * sum(schedule.sequences[p.operand.index] for p in accumulator.by_time) > accumulator.width
        for accumulator in schedule.accumulators
    )
    return Kept(leaves, accumulators)
