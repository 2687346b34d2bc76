"""Recording of a cell: its states at each step, and the gradient that reaches each step.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_flatten_with_path, tree_leaves, tree_unflatten

from cells.cell import Cell, Step
from cells.state import State

Gradients = dict[str, Tensor]
CARRIED = "h carried"  # the copy of the output in the state, if it is another tensor than the output


class Recording:
    """The inputs, outputs and states of each step of a cell, with their graph.

    Parts of the state have the names of the state: ``c``, ``drive.p``. ``h`` is the output y_t, and also the part of
    the state that equals it, if there is one.

    Attributes:
        cell: The cell.
        inputs: x_t of shape (B, I), for each step.
        outputs: y_t of shape (B, H).
        states: The leaves of the state after step t.
        states_before: The leaves of the state before step t.
        spec: The structure of the state (``torch.utils._pytree``).
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.states: list[list[Tensor]] = []
        self.states_before: list[list[Tensor]] = []
        self.spec: TreeSpec | None = None
        self._output_leaves: set[int] = set()  # leaves of the state that were the output in all steps

    @property
    def output_leaf(self) -> int | None:
        """Index of the leaf of the state that equals the output, if there is one."""
        return min(self._output_leaves, default=None)

    def state(self, t: int, moved: Mapping[int, Tensor] | None = None) -> State:
        """Return the state after step ``t`` (from 0), detached, with ``moved[i]`` added to leaf i."""
        assert self.spec is not None  # there is a step
        leaves = [leaf.detach() for leaf in self.states[t]]
        for index, by in (moved or {}).items():
            leaves[index] = leaves[index] + by
        return tree_unflatten(leaves, self.spec)

    def parts(self) -> dict[str, int]:
        """Return the indices of the floating-point leaves of the state by name; ``h`` is the one that is the output."""
        paths = [path for path, _ in tree_flatten_with_path(self.state(0))[0]]
        return {
            "h" if index == self.output_leaf else _name(path): index
            for index, path in enumerate(paths)
            if self.states[0][index].is_floating_point()
        }

    def step(self, step: Step, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        """Run ``step`` and record it."""
        self.states_before.append([leaf.detach() for leaf in tree_leaves(state)])
        x_BI = x_BI.view_as(x_BI) if x_BI.requires_grad else x_BI.detach().requires_grad_(torch.is_grad_enabled())
        y_BH, state = step(x_BI, state)
        leaves, spec = tree_flatten(state)
        same = {index for index, leaf in enumerate(leaves) if leaf is y_BH}
        if not same:  # output and state are two tensors: both are recorded, and their gradients added
            same = {index for index, leaf in enumerate(leaves) if torch.equal(leaf, y_BH)}
            leaves = [leaf.view_as(leaf) if index in same else leaf for index, leaf in enumerate(leaves)]
            y_BH = y_BH.view_as(y_BH)
        self._output_leaves = same if self.spec is None else same & self._output_leaves
        self.spec = spec
        self.inputs.append(x_BI)
        self.outputs.append(y_BH)
        self.states.append(leaves)
        return y_BH, tree_unflatten(leaves, spec)


@contextmanager
def recording(cell: Cell) -> Iterator[Recording]:
    """Record every step of ``cell`` inside the block, where it computes by its step loop under any engine."""
    record = Recording(cell)
    replaced = {"loop": partial(_recorded_loop, record), "forward": partial(_forward_by_steps, cell)}
    before = {name: vars(cell)[name] for name in replaced if name in vars(cell)}
    vars(cell).update(replaced)
    try:
        yield record
    finally:
        for name in replaced:
            del vars(cell)[name]
        vars(cell).update(before)


def _forward_by_steps(cell: Cell, x_BTI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Compute a sequence by the step loop, whatever engine the cell is set to."""
    return cell.loop(x_BTI, cell.start_state(x_BTI, state))


def gradients_through_time(loss: Tensor, records: Sequence[Recording]) -> list[Gradients]:
    """Return the gradient of ``loss`` that reaches each step of the recorded cells.

    dL/dh_t is the derivative with respect to the output of step t: directly through the loss, and through all later
    steps, which start from it. dL/dx_t is the derivative with respect to the input of step t. dL/dc_t is the one with
    respect to the tensor that the cell computed for this part of the state; an LSTM computes h_t from c_t, so that it
    includes the gradient through h_t. The same holds for every other part. The inputs and the other parts of the state
    are fixed.

    Args:
        loss: A scalar of the recorded graph. Its graph is freed.
        records: The recordings.

    Returns:
        For each recording: gradients of shape (T, B, features), by name: ``h``, ``x``, and the parts of the state.
    """
    tapped = [_tapped(record) for record in records]
    wanted = [tensor for taps in tapped for steps in taps.values() for tensor in steps if tensor.requires_grad]
    found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))

    def gradient(tensor: Tensor) -> Tensor:
        value = next(found) if tensor.requires_grad else None
        return torch.zeros_like(tensor) if value is None else value

    every = []
    for taps in tapped:
        gradients = {name: torch.stack([gradient(tensor) for tensor in steps]) for name, steps in taps.items()}
        if CARRIED in gradients:
            gradients["h"] = gradients["h"] + gradients.pop(CARRIED)
        every.append(gradients)
    return every


def norms_through_time(gradients: Gradients) -> dict[str, Tensor]:
    """Return the Euclidean norm over batch and features at each step, of shape (T,), by name.

    Each step is divided by its largest entry first, because squares of small gradients would underflow to 0.
    """
    norms = {}
    for name, gradient in gradients.items():
        steps = gradient.flatten(1)
        largest_T = steps.abs().amax(1)
        units_T = torch.where(largest_T > 0, largest_T, 1.0)
        norms[name] = units_T * (steps / units_T[:, None]).norm(dim=1)
    return norms


def _tapped(record: Recording) -> dict[str, list[Tensor]]:
    parts = {name: [leaves[index] for leaves in record.states] for name, index in record.parts().items()}
    carried = parts.pop("h", record.outputs)
    copied = {} if carried[0] is record.outputs[0] else {CARRIED: carried}
    return {"h": record.outputs, **copied, "x": record.inputs, **parts}


def _recorded_loop(record: Recording, x_BTI: Tensor, state: State, step: Step | None = None) -> tuple[Tensor, State]:
    cell = record.cell
    return type(cell).loop(cell, x_BTI, state, partial(record.step, step or cell.stepper()))


def _name(path: Sequence[Any]) -> str:
    """Return the name of a leaf: ``drive.p``; ``c`` for the path ``core.c``; ``state`` if the state is one tensor."""
    keys = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
    return ".".join(keys[1:] if keys[:1] == ["core"] else keys) or "state"
