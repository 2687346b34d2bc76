"""How a cell is computed that has more than one way: which engine runs it, the library kernels, the precision policy.

Every engine gives the outputs, last states and gradients of the reference, so that a sequence may be cut anywhere and
go on under another engine.

Shapes: B batch, T time, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cells.bptt import Recurrence
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


def choose_engine(cell: EngineCell) -> str:
    """The engine that runs ``cell``: the one place where ``auto`` is decided.

    ``library`` (oneDNN on the CPU, cuDNN on the GPU) wherever torch has a kernel for the core and what stands before it
    is linear; ``bptt``, back-propagation through time by hand, elsewhere; ``reference``, the step loop, for a core that
    has neither, and where a program is exported.

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
    if cell.library:
        return "library"
    exporting = torch.compiler.is_exporting()  # bptt chooses its chunks by the number of rows, which must stay free
    return "bptt" if cell.recurrence is not None and not exporting else "reference"


def run_library(
    cell: EngineCell, u_BTD: Tensor, weight_GD: Tensor, bias_G: Tensor | None, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The core by torch's own kernel, on inputs u with v_t = W u_t + b.

    Under autocast the kernel gets the low precision, explicitly: torch's own autocast rules for recurrent layers differ
    between devices and layers. Outputs and states come back in the dtype of the parameters.
    """
    assert cell.kernel is not None  # choose_engine saw to it
    weight_GH = cell.recurrent_weight()
    dtype = weight_GH.dtype
    device = u_BTD.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
    bias_hh_G = cell.bias_hh
    weights = [weight_GD, weight_GH]
    if bias_hh_G is not None:
        weights += [torch.zeros_like(bias_hh_G) if bias_G is None else bias_G, bias_hh_G]
    with no_autocast(u_BTD):
        hidden = tuple(leaf.to(low).unsqueeze(0) for leaf in state)
        y_BTH, *last = cell.kernel(
            u_BTD.to(low),
            hidden if len(hidden) > 1 else hidden[0],
            [weight.to(low) for weight in weights],
            bias_hh_G is not None,
            1,  # layers
            0.0,  # dropout
            torch.is_grad_enabled(),  # "train": keeps what the backward pass needs, also of a cell in eval mode
            False,  # bidirectional
            True,  # batch first
        )
    return y_BTH.to(dtype), tuple(leaf.squeeze(0).to(dtype) for leaf in last)


def no_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """The precision policy: drives, scans and retractions run under this, only matrix products may be low precision."""
    device = tensor.device.type
    available = torch.amp.autocast_mode.is_autocast_available(device)  # not on "meta"
    return torch.autocast(device, enabled=False) if available and torch.is_autocast_enabled(device) else nullcontext()


def full_precision(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or in float64 if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
