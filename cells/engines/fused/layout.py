"""How a batch is cut into blocks of rows and chunks of steps, and where the arrays of a block lie in a workspace.

Shapes: B batch, T time.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cells.engines.fused.program import Program
from cells.engines.fused.workspace import Lease

MOST_ROWS = 64  # of a block: its states and accumulators of a step stay in the cache
CHUNK = 2**18  # numbers in the accumulators of a chunk: they stay in the cache
LEAST_ROWS = 256  # of a chunk, steps times rows: the gradients of the weights are read and written once a chunk
LINE = 64  # bytes of a line of the cache, at which each array starts


class Block:
    """Rows ``start`` to ``start + rows`` of a batch, and the places of their arrays in a workspace, in bytes."""

    def __init__(self, start: int, rows: int, places: dict[str, int], lease: Lease) -> None:
        self.start, self.rows, self.places, self.lease = start, rows, places, lease

    def addresses(self) -> dict[str, int]:
        """Return the address of each array."""
        base = self.lease.address()
        return {name: base + place for name, place in self.places.items()}

    def rows_of(self, batches: dict[str, Tensor]) -> dict[str, int]:
        """Return the number of rows, and the addresses of these rows of batches."""
        places = {
            name: batch.data_ptr() + self.start * batch.stride(0) * batch.dtype.itemsize
            for name, batch in batches.items()
        }
        return {"rows": self.rows, **places}


def cut_rows(B: int, threads: int) -> list[tuple[int, int]]:
    """Return the first row and the number of rows of each block: as many for each thread."""
    parts = threads * -(-B // (threads * MOST_ROWS))
    rows = -(-B // parts)
    return [(start, min(rows, B - start)) for start in range(0, B, rows)]


def cut_steps(program: Program, rows: int, T: int) -> int:
    """Return the number of steps of a chunk, for blocks of so many rows."""
    widest = max((a.width for a in program.schedule.accumulators), default=program.width("y"))
    return max(1, min(T, max(CHUNK // (rows * widest), -(-LEAST_ROWS // rows))))


def forward_periods(program: Program, T: int, chunk: int, keep: bool) -> dict[str, int]:
    """Return after how many steps the place of a leaf of the state, or of an accumulator, is used again.

    Args:
        program: The step.
        T: Number of steps.
        chunk: Steps of a chunk.
        keep: Whether a backward pass follows.
    """
    schedule, kept = program.schedule, program.kept
    periods = {}
    for i, leaf in enumerate(schedule.leaves):
        always = kept.leaves[i] or not leaf.is_floating_point()
        periods[f"leaf{i}"] = T + 1 if keep and always else 2
    for i in range(len(schedule.accumulators)):
        periods[f"accumulator{i}"] = T if keep and kept.accumulators[i] else chunk
    return periods


def forward_sizes(
    program: Program, rows: int, T: int, chunk: int, periods: dict[str, int], keep: bool
) -> dict[str, int]:
    """Return the bytes of each array that the forward pass needs for a block."""
    schedule, size = program.schedule, program.dtype.itemsize
    sizes = {}
    for i, leaf in enumerate(schedule.leaves):
        row = rows * program.width(f"leaf{i}")
        sizes[f"leaf{i}"] = periods[f"leaf{i}"] * row * leaf.dtype.itemsize
        if keep and not program.kept.leaves[i]:
            sizes[f"starts{i}"] = -(-T // chunk) * row * size
    for i, accumulator in enumerate(schedule.accumulators):
        sizes[f"accumulator{i}"] = periods[f"accumulator{i}"] * rows * accumulator.width * size
    for i, width in enumerate(schedule.sequences):
        sizes[f"gathered{i}"] = chunk * rows * (width + 1) * size
    for i, width in enumerate(schedule.values):
        sizes[f"value{i}"] = rows * width * size
    return sizes


def backward_sizes(program: Program, rows: int, chunk: int) -> dict[str, int]:
    """Return the bytes of each further array that the backward pass needs for a block."""
    schedule, size = program.schedule, program.dtype.itemsize
    step = rows * size
    sizes = {}
    for i, leaf in enumerate(schedule.leaves):
        if leaf.is_floating_point() and not program.kept.leaves[i]:
            sizes[f"leaf{i}"] = (chunk + 1) * step * program.width(f"leaf{i}")
    for i, accumulator in enumerate(schedule.accumulators):
        sizes[f"daccumulator{i}"] = chunk * step * accumulator.width
        if not program.kept.accumulators[i]:
            sizes[f"accumulator{i}"] = chunk * step * accumulator.width
    for i, width in enumerate(schedule.sequences):
        sizes[f"gathered{i}"] = chunk * step * (width + 1)
        sizes[f"dgathered{i}"] = chunk * step * width
    for i, width in enumerate(schedule.values):
        sizes[f"value{i}"] = chunk * step * width
        sizes[f"dvalue{i}"] = step * width
    return sizes


def lay_out(rows: Sequence[tuple[int, int]], sizes: Sequence[dict[str, int]]) -> list[Block]:
    """Return blocks whose arrays lie in one workspace.

    Args:
        rows: The first row and the number of rows of each block.
        sizes: The bytes of each of its arrays.
    """
    total = 0
    places = []
    for named in sizes:
        own = {}
        for name, size in named.items():
            own[name] = total
            total += -(-size // LINE) * LINE
        places.append(own)
    lease = Lease(total)
    return [Block(start, count, own, lease) for (start, count), own in zip(rows, places, strict=True)]
