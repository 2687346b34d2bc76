"""The choice of the engine that computes a cell.

Every engine returns the outputs, last states and gradients of the reference, so that a sequence may be cut anywhere and
continued by another engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from cells.engines.bptt import Recurrence
from cells.validation import one_of

Engine = Literal["auto", "reference", "library", "bptt"]
ENGINES = ("auto", "reference", "library", "bptt")


class EngineCell(nn.Module):
    """A cell that more than one engine can compute. The defaults describe a cell that only the step loop can run.

    Attributes:
        engine: The engine that the user asked for.
        kernel: torch's function for the recurrence of the cell, if there is one.
        recurrence: The recurrence for the engine ``bptt``, if there is one.
    """

    engine: Engine
    kernel: ClassVar[Callable[..., Any] | None] = None
    recurrence: ClassVar[type[Recurrence] | None] = None

    @property
    def library(self) -> bool:
        """Whether :attr:`kernel` can run the cell with its options."""
        return self.kernel is not None


def choose_engine(cell: EngineCell) -> str:
    """Return the engine that runs ``cell``. This is the one place that decides what ``auto`` means.

    1. ``library`` if torch has a kernel that runs all steps of the cell at once: cuDNN's kernels, and on the CPU
       oneDNN's LSTM.
    2. ``bptt`` elsewhere. On the CPU torch's GRU and tanh network loop over the steps and create a graph node for each;
       ``bptt`` trains 1.1 to 1.8 times as fast. These kernels still run in an exported program, and for a core without
       a recurrence for ``bptt``.
    3. ``reference``, the step loop, for a core that has neither.

    Raises:
        ValueError: if the cell asks for an engine that does not exist or cannot run it.
    """
    one_of("engine", cell.engine, ENGINES)
    name = type(cell).__name__
    if cell.engine == "library" and not cell.library:
        raise ValueError(f"engine must be 'auto' for {name}, for which torch has no kernel, got 'library'")
    if cell.engine == "bptt" and cell.recurrence is None:
        raise ValueError(f"engine must be 'auto' or 'reference' for {name}, which has no recurrence, got 'bptt'")
    if cell.engine != "auto":
        return cell.engine
    # bptt chooses its chunks by the number of rows, which an exported program must leave open
    by_hand = cell.recurrence is not None and not torch.compiler.is_exporting()
    if cell.library and not (by_hand and _kernel_loops(cell)):
        return "library"
    return "bptt" if by_hand else "reference"


def _kernel_loops(cell: EngineCell) -> bool:
    """Whether torch's kernel for the cell is a loop over the steps."""
    return cell.kernel is not torch.lstm and not next(iter(cell.parameters())).is_cuda
