"""Which engine computes a cell: the one place where ``auto`` is decided.

Every engine gives the outputs, last states and gradients of the reference, so that a sequence may be cut anywhere and
continued by another engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from cells.engines.bptt import Recurrence
from cells.validation import one_of

Engine = Literal["auto", "reference", "library", "bptt"]
ENGINES = ("auto", "reference", "library", "bptt")


class EngineCell(Protocol):
    """A cell that can be computed in more than one way.

    Attributes:
        engine: What it was asked to run on.
        library: Whether :attr:`kernel` can run it as it is.
        kernel: torch's function for its core, if there is one.
        recurrence: Its core for the engine ``bptt``, if there is one.
        bias_hh: What is added to U h, or None.
    """

    engine: Engine

    @property
    def library(self) -> bool: ...

    @property
    def kernel(self) -> Callable[..., Any] | None: ...

    @property
    def recurrence(self) -> type[Recurrence] | None: ...

    @property
    def bias_hh(self) -> Tensor | None: ...

    def recurrent_weight(self) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def choose_engine(cell: EngineCell) -> str:
    """The engine that runs ``cell``: the one place where ``auto`` is decided.

    ``library`` where what stands before the core is linear and torch has a kernel that runs all steps of it at once:
    cuDNN's, and on the CPU oneDNN's LSTM. ``bptt``, back-propagation through time by hand, elsewhere. On the CPU the
    GRU and tanh network of torch are loops with a node of the graph for each step, and ``bptt`` trains 1.1 to 1.8 times
    as fast; they run where a program is exported, or a core has no ``bptt``. ``reference``, the step loop, is for a
    core that has neither.

    Raises:
        ValueError: if the cell asks for an engine that does not exist or cannot run it.
    """
    one_of("engine", cell.engine, ENGINES)
    if cell.engine == "library" and not cell.library:
        raise ValueError(f"engine is 'library', but torch has no kernel for {type(cell).__name__}: take 'auto'")
    if cell.engine == "bptt" and cell.recurrence is None:
        raise ValueError(
            f"engine is 'bptt', but {type(cell).__name__} has no recurrence for it: take 'auto' or 'reference'"
        )
    if cell.engine != "auto":
        return cell.engine
    # an exported program has no bptt, which chooses its chunks by the number of rows: that must stay free
    by_hand = cell.recurrence is not None and not torch.compiler.is_exporting()
    if cell.library and not (by_hand and _loops(cell)):
        return "library"
    return "bptt" if by_hand else "reference"


def _loops(cell: EngineCell) -> bool:
    """Whether torch's kernel for the cell is a loop over the steps."""
    return cell.kernel is not torch.lstm and not next(iter(cell.parameters())).is_cuda
