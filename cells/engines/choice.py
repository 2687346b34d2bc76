"""The choice of the engine that computes a cell.

Every engine returns the outputs, last states and gradients of the reference, so that a sequence may be cut anywhere and
continued by another engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cells.engines.fused import NotFusable, compiler_fault
from cells.validation import one_of

Engine = Literal["auto", "reference", "library", "scan", "fused"]
ENGINES = ("auto", "reference", "library", "scan", "fused")


class EngineCell(Protocol):
    """What this module asks of a :class:`cells.Cell`."""

    engine: Engine
    input_size: int
    hidden_size: int

    @property
    def library(self) -> bool: ...

    @property
    def library_is_direct(self) -> bool: ...

    @property
    def scannable(self) -> bool: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def initial_state(self, batch_size: int) -> Any: ...

    def loop(self, x_BTI: Tensor, state: Any) -> tuple[Tensor, Any]: ...

    def run_library(self, x_BTI: Tensor, state: Any) -> tuple[Tensor, Any]: ...

    def run_scan(self, x_BTI: Tensor, state: Any) -> tuple[Tensor, Any]: ...

    def run_fused(self, x_BTI: Tensor, state: Any) -> tuple[Tensor, Any]: ...


def check_engine(cell: EngineCell) -> None:
    """Check that the engine that the user asked for exists and can run ``cell``.

    Raises:
        ValueError: if it cannot.
    """
    one_of("engine", cell.engine, ENGINES)
    if cell.engine == "library" and not cell.library:
        raise ValueError(
            f"engine must be 'auto' for {type(cell).__name__}, for which torch has no kernel, got 'library'"
        )
    if cell.engine == "scan" and not cell.scannable:
        raise ValueError(
            f"engine must be 'auto' for {type(cell).__name__}, which is not linear in its state, got 'scan'"
        )


def choose_engine(cell: EngineCell, x: Tensor | None = None) -> str:
    """Return the engine that runs ``cell``. This is the one place that decides what ``auto`` means.

    1. ``reference``, the step loop, where a transform of ``torch.func`` or a dispatch mode follows every operation, and
       for tensors without data. In a compiled or exported program ``library`` if torch has a kernel for the cell,
       ``scan`` if the cell is linear in its state, else ``reference``.
    2. ``library`` on CUDA, if torch has a kernel for the cell: cuDNN computes all steps at once. On the CPU without
       autocast, ``library`` for LSTM kernels that need no identity as their input weight, where there is no compiler,
       and for a single sequence: the kernel divides its units among the threads, ``fused`` would use one.
    3. ``scan`` for a cell that is linear in its state, on CUDA, under autocast, and where there is no compiler.
    4. ``fused`` elsewhere. If it turns out that the step cannot be fused, the kernel, the scan or the reference loop
       runs.

    Args:
        cell: The cell.
        x: Its input, or None for an ordinary batch on the device of the parameters.

    Raises:
        ValueError: as :func:`check_engine`.
    """
    check_engine(cell)
    if cell.engine not in ("auto", "fused"):
        return cell.engine
    example = next(cell.parameters(), torch.empty(0)) if x is None else x
    if torch.compiler.is_compiling():  # true also during an export
        return _without_fused(cell)
    if is_followed() or type(example) not in (Tensor, nn.Parameter) or example.device.type not in ("cpu", "cuda"):
        return "reference"
    if cell.engine == "fused":
        return "fused"
    if example.is_cuda:
        return "library" if cell.library else "scan" if cell.scannable else "fused"
    if torch.is_autocast_enabled("cpu"):
        return "scan" if cell.scannable else "fused"
    compiled = compiler_fault() is None
    single = x is not None and len(x) == 1
    lstm = cell.library and getattr(cell, "kernel", None) is torch.lstm and cell.library_is_direct
    if lstm and (single or not compiled):
        return "library"
    return "scan" if cell.scannable and not compiled else "fused"


def _without_fused(cell: EngineCell) -> str:
    if cell.engine != "auto":
        return "reference"
    return "library" if cell.library else "scan" if cell.scannable else "reference"


def is_followed() -> bool:
    """Whether more than autograd follows the operations on tensors; torch has no public function for it."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )


def compute(cell: EngineCell, x_BTI: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Compute a sequence with the engine that :func:`choose_engine` returns.

    Args:
        cell: A :class:`cells.Cell`.
        x_BTI: Inputs of shape (batch, time, input_size).
        state: State before the first step.

    Raises:
        ValueError: if the cell asks for ``fused`` and its step cannot be fused.
    """
    run: dict[str, Callable[..., tuple[Tensor, Any]]]
    run = {"reference": cell.loop, "library": cell.run_library, "scan": cell.run_scan, "fused": cell.run_fused}
    with parametrize.cached():  # computes a parametrized weight once for the sequence
        try:
            return run[choose_engine(cell, x_BTI)](x_BTI, state)
        except NotFusable as reason:
            if cell.engine == "fused":
                name = type(cell).__name__
                raise ValueError(f"engine must be 'auto' or 'reference' for {name}, got 'fused': {reason}") from reason
        return run[_without_fused(cell)](x_BTI, state)


def explain_engine(cell: EngineCell) -> tuple[str, str]:
    """Return the engine that runs ``cell`` on its device, and the reason if the step cannot be fused.

    It runs the cell on a sequence of two steps.
    """
    engine = choose_engine(cell)
    if engine != "fused":
        return engine, ""
    x_BTI = next(cell.parameters()).new_zeros(1, 2, cell.input_size)
    try:
        with torch.no_grad():
            cell.run_fused(x_BTI, cell.initial_state(1))
    except NotFusable as reason:
        return _without_fused(cell), str(reason)
    return engine, ""
