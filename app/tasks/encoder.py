"""The encoder that classification and regression share: one cell, or several layers of it.

Shapes: B batch, T time, I input_size, F features.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from app.tasks.base import CellFactory, Task
from app.tasks.padding import both_ends, last_step
from cells import Cell, Stack
from cells.stack import Norm

DEPTH = {"num_layers": 1, "residual": False, "norm": "none", "dropout": 0.0, "bidirectional": False}  # one cell


class EncoderTask(Task):
    """A task whose model is an encoder and a head: y = encoder(x), with one cell or a :class:`cells.Stack` of layers.

    A subclass passes its sizes, makes a head for :attr:`features`, and calls :meth:`keep_encoder`.

    Args:
        cell: The recurrent cell of each layer: called with (input_size, hidden_size).
        input_size: Number of features of one step.
        hidden_size: Number of hidden units of each layer and direction.
        num_layers: Number of layers.
        residual: Whether the input of a layer is added to its output, where they have the same width.
        norm: Normalization of what the next layer or the head reads: ``none``, ``layer`` or ``rms``. The input of the
            first layer is not normalized.
        dropout: Dropout probability of the outputs of all layers but the last.
        bidirectional: Whether each layer also has a cell that reads the sequence from its end.
        **kwargs: Arguments of :class:`app.tasks.base.Task`.

    Attributes:
        causal: Whether an output may depend on earlier inputs only, so that ``bidirectional`` is refused.
        cell: The encoder: a :class:`cells.Stack`, or the cell itself if there is one layer without options.
        features: Number of features of one output step, F.

    Raises:
        ValueError: If an argument is out of range, or ``bidirectional`` is True in a causal task.
    """

    causal: ClassVar[bool] = False
    cell: Cell | Stack

    def __init__(
        self,
        cell: CellFactory,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        residual: bool = False,
        norm: Norm = "none",
        dropout: float = 0.0,
        bidirectional: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.causal and bidirectional:
            raise ValueError(
                f"bidirectional must be False for {type(self).__name__}, whose outputs must not depend on later "
                "inputs, got True"
            )
        depth = {
            "num_layers": num_layers,
            "residual": residual,
            "norm": norm,
            "dropout": dropout,
            "bidirectional": bidirectional,
        }
        self.cell = make_encoder(cell, input_size, hidden_size, **depth)
        self.features = self.cell.output_size if isinstance(self.cell, Stack) else hidden_size
        self._arguments = {"input_size": input_size, "hidden_size": hidden_size, **depth}

    def keep_encoder(self, **arguments: Any) -> None:
        """Store the arguments of the encoder and the further ``arguments`` of the task as hyperparameters."""
        first = self.cell.layers[0] if isinstance(self.cell, Stack) else self.cell
        self.keep_hyperparameters(cast("Cell", first), **self._arguments, **arguments)

    def encode(self, x_BTI: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features (B, T, F) of each step. Padding does not change those of valid steps."""
        if isinstance(self.cell, Stack):
            return self.cell.outputs(x_BTI, lengths_B)
        y_BTF, _ = self.cell(x_BTI)
        return cast("Tensor", y_BTF)

    def encode_sequence(self, x_BTI: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features (B, F) of each sequence: those of the last step that each direction reads."""
        y_BTF = self.encode(x_BTI, lengths_B)
        if isinstance(self.cell, Stack) and self.cell.bidirectional:
            return both_ends(y_BTF, lengths_B)
        return last_step(y_BTF, lengths_B)


def make_encoder(cell: CellFactory, input_size: int, hidden_size: int, **depth: Any) -> Cell | Stack:
    """Return a cell, or with other than the default options of :class:`cells.Stack` a stack of its layers."""
    if DEPTH | depth == DEPTH:
        return cell(input_size, hidden_size)
    return Stack(cell, input_size, hidden_size, **depth)
