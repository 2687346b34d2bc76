"""A cell followed step by step: what it computed, and the gradient that reaches each step.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_flatten_with_path, tree_unflatten

from cells.cell import Cell, Step
from cells.driven import DrivenCell
from cells.state import State

Gradients = dict[str, Tensor]


class Recording:
    """What a cell did at each step since :func:`recording` began, in a graph that gradients can be taken of.

    A part of the state is named as in the state: ``c``, ``drive.p``. ``h`` is the output y_t, and at the same time the
    part of the state that equals it, if there is one.

    Attributes:
        cell: The cell.
        inputs: x_t of shape (B, I), for each step.
        outputs: y_t of shape (B, H).
        states: The leaves of the state that step t left; what step t + 1 started from.
        drives: Of a cell with a core, the v_t and u_t that the core got at each step.
        spec: How the leaves make a state (``torch.utils._pytree``).
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.states: list[list[Tensor]] = []
        self.drives: list[tuple[Tensor, Tensor]] = []
        self.spec: TreeSpec | None = None
        self._output_leaves: set[int] = set()  # which leaves of the state have been the output in all steps

    @property
    def output_leaf(self) -> int | None:
        """Which leaf of the state the output is, if it is one."""
        return min(self._output_leaves, default=None)

    def state(self, t: int, moved: Mapping[int, Tensor] | None = None) -> State:
        """The state that step ``t`` left, counted from 0, cut from the graph; leaves moved by what ``moved`` says."""
        assert self.spec is not None  # there is a step
        leaves = [leaf.detach() for leaf in self.states[t]]
        for index, by in (moved or {}).items():
            leaves[index] = leaves[index] + by
        return tree_unflatten(leaves, self.spec)

    def parts(self) -> dict[str, int]:
        """Which leaves of the state are real numbers, by name; ``h`` is the one that is the output."""
        paths = [path for path, _ in tree_flatten_with_path(self.state(0))[0]]
        return {
            "h" if index == self.output_leaf else _name(path): index
            for index, path in enumerate(paths)
            if self.states[0][index].is_floating_point()
        }

    def step(self, step: Step, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        """``step``, recorded."""
        x_BI = x_BI.view_as(x_BI) if x_BI.requires_grad else x_BI.detach().requires_grad_(torch.is_grad_enabled())
        y_BH, state = step(x_BI, state)
        leaves, spec = tree_flatten(state)
        same = {index for index, leaf in enumerate(leaves) if leaf is y_BH}
        if not same:  # what goes out and what goes on are two tensors: both are tapped, to add up their gradients
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
    """While the block runs, ``cell`` computes by its step loop, whatever its engine, and every step is recorded."""
    record = Recording(cell)
    replaced: dict[str, Any] = {"loop": partial(_recorded_loop, record)}
    if isinstance(cell, DrivenCell):
        replaced |= {"engine": "reference", "core_step": partial(_recorded_core_step, record)}
    else:
        replaced["forward"] = partial(Cell.forward, cell)
    before = {name: vars(cell)[name] for name in replaced if name in vars(cell)}
    vars(cell).update(replaced)
    try:
        yield record
    finally:
        for name in replaced:
            del vars(cell)[name]
        vars(cell).update(before)


def gradients_through_time(loss: Tensor, records: Sequence[Recording]) -> list[Gradients]:
    """The gradient of ``loss`` that reaches each step of the recorded cells.

    dL/dh_t is the derivative by the output of step t with all that depends on it: what the loss reads at step t itself,
    and all later steps, which start from it. dL/dx_t is the derivative by the input of step t, dL/dc_t by the tensor
    that the cell made for this part of its state (an LSTM's h_t is computed from c_t, so the gradient through h_t is in
    it), and likewise for every other part. The inputs, and the other parts of the state, are held fixed.

    Args:
        loss: A scalar of the recorded graph, which it consumes.
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
        if "going on" in gradients:
            gradients["h"] = gradients["h"] + gradients.pop("going on")
        every.append(gradients)
    return every


def norms_through_time(gradients: Gradients) -> dict[str, Tensor]:
    """The Euclidean norm over batch and features at each step, of shape (T,), by name.

    Squares of what has vanished would be 0 long before it is, so each step is measured in units of its largest entry.
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
    going_on = parts.pop("h", record.outputs)
    copied = {} if going_on[0] is record.outputs[0] else {"going on": going_on}
    return {"h": record.outputs, **copied, "x": record.inputs, **parts}


def _recorded_loop(record: Recording, x_BTI: Tensor, state: State, step: Step | None = None) -> tuple[Tensor, State]:
    cell = record.cell
    return type(cell).loop(cell, x_BTI, state, partial(record.step, step or cell.stepper()))


def _recorded_core_step(record: Recording, v_BG: Tensor, u_BG: Tensor, state: Any) -> tuple[Tensor, Any]:
    record.drives.append((v_BG, u_BG))
    cell = record.cell
    assert isinstance(cell, DrivenCell)
    return type(cell).core_step(cell, v_BG, u_BG, state)


def _name(path: Sequence[Any]) -> str:
    """``drive.p`` for the path of a leaf; the core's parts without ``core``; ``state`` where the state has one part."""
    keys = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
    return ".".join(keys[1:] if keys[:1] == ["core"] else keys) or "state"
