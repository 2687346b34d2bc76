"""Hidden states that are carried from one window of a stream to the next.

Shapes: B batch.
"""

from __future__ import annotations

from typing import cast

from pytorch_lightning import LightningModule
from torch import Tensor
from torch.utils._pytree import tree_structure, tree_unflatten

from cells import detach, reset_rows
from cells.state import State, leaves


class CarriedStates:
    """The state after the last window of each data split, detached from the graph.

    A checkpoint holds the state of ``train`` with the rows of all processes, so a resumed training continues with it.

    Attributes:
        by_part: The states, by data split.
    """

    def __init__(self) -> None:
        self.by_part: dict[str, State] = {}
        self._restored: tuple[list[Tensor], int] | None = None  # leaves with the rows of all processes, and the rank

    def before_window(self, part: str, reset_B: Tensor, initial: State) -> State:
        """Return the state in which a window starts: ``initial`` in the rows where ``reset_B`` is True."""
        if part == "train" and self._restored is not None:
            self.by_part[part] = _rows_of_process(*self._restored, initial)
            self._restored = None
        if part not in self.by_part:
            return initial
        return reset_rows(self.by_part[part], reset_B, initial)

    def after_window(self, part: str, state: State) -> None:
        """Store the state after a window."""
        self.by_part[part] = detach(state)

    def forget(self, part: str) -> None:
        """Remove the state of a data split."""
        self.by_part.pop(part, None)

    def saved(self, module: LightningModule) -> list[Tensor] | None:
        """Return what a checkpoint holds: the leaves of the training state, or None if there is none yet.

        All processes must call it.
        """
        if "train" not in self.by_part:
            return None
        return [_rows_of_all_processes(module, leaf).cpu().clone() for leaf in leaves(self.by_part["train"])]

    def restore(self, saved: list[Tensor] | None, rank: int) -> None:
        """Let the next training window start in a state that :meth:`saved` returned."""
        self._restored = None if saved is None else (saved, rank)


def _rows_of_all_processes(module: LightningModule, leaf: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks."""
    if module.trainer.world_size == 1:
        return leaf
    return cast("Tensor", module.all_gather(leaf)).flatten(0, 1)


def _rows_of_process(saved: list[Tensor], rank: int, like: State) -> State:
    """Return the rows of the process ``rank`` of a saved state, with the structure and device of ``like``."""
    first_leaf = leaves(like)[0]
    rows = len(first_leaf)
    own = [leaf[rows * rank : rows * (rank + 1)].to(first_leaf.device) for leaf in saved]
    return tree_unflatten(own, tree_structure(like))
