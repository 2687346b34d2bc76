"""How a cell is computed that has more than one way: which engine runs it, the library kernels, the precision policy.

Every engine gives the outputs, last states and gradients of the reference, so that a sequence may be cut anywhere and
go on under another engine.

Shapes: B batch, T time, H hidden_size, G = gates x H, D channels that reach the gate weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

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
