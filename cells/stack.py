"""Several layers of a cell, with the interface of torch.nn.LSTM.

Shapes: B batch, T time, I input_size, H hidden_size, F output_size (H, or 2 H with two directions), N rows that have
not ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from cells.cell import Cell
from cells.state import State, check_state
from cells.validation import number_in, one_of, positive_int

Norm = Literal["none", "layer", "rms"]
Layer = Callable[[Tensor, State], tuple[Tensor, State]]
Run = Callable[[Cell, Tensor, State], tuple[Tensor, State]]
NORMS: dict[str, Callable[[int], nn.Module]] = {"none": nn.Identity, "layer": nn.LayerNorm, "rms": nn.RMSNorm}


class Stack(nn.Module):
    """Layers of a cell: z_l = norm(s_l), s_l = [s_{l-1} +] dropout(cell_l(z_{l-1})), from z_0 = s_0 = x to z_L.

    It replaces ``torch.nn.LSTM(..., batch_first=True)``, with any cell. Its state is a list with the state of each
    layer; with two directions, each entry is the pair (forward, reverse).

    Args:
        cell: The cell of a layer: called with (input_size, hidden_size).
        input_size: Number of features of one input step, I.
        hidden_size: Number of hidden units of each layer and direction, H.
        num_layers: Number of layers, L.
        residual: Whether s_{l-1} is added, in each layer whose output is as wide as s_{l-1}. The first layer has this
            connection only if the input is as wide as its output.
        norm: ``layer`` (torch.nn.LayerNorm) or ``rms`` (torch.nn.RMSNorm) over the features of a step. The input of the
            first layer is not normalized, because its features may be few: normalization makes one feature a constant.
            The output of the last layer is normalized.
        dropout: Dropout probability of the outputs of all layers but the last. It is applied before the residual
            connection.
        bidirectional: Whether each layer has a second cell that reads the sequence from its end. The outputs of both
            cells are concatenated, forward direction first.

    Attributes:
        layers: The cells, first layer first.
        reverse_layers: The cells of the reverse direction; empty with one direction.
        norms: The normalization of each layer's output.

    Raises:
        ValueError: if an argument is out of range, or ``residual`` or ``dropout`` would have no effect.
    """

    def __init__(
        self,
        cell: Callable[[int, int], Cell],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        residual: bool = False,
        norm: Norm = "none",
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size = positive_int("input_size", input_size), hidden_size
        self.num_layers, self.bidirectional = positive_int("num_layers", num_layers), bidirectional
        self.residual, self.norm = residual, norm
        if number_in("[0, 1)", "dropout", dropout) and num_layers == 1:
            raise ValueError(f"dropout must be 0 with one layer, because it is between layers, got {dropout}")
        if num_layers == 1 and residual and input_size != self.output_size:
            raise ValueError(
                f"residual must be False with one layer of {self.output_size} output features, because the input has "
                f"{input_size}, got True"
            )
        inputs = [input_size] + [self.output_size] * (num_layers - 1)
        self.layers = nn.ModuleList(cell(width, hidden_size) for width in inputs)
        self.reverse_layers = nn.ModuleList(cell(width, hidden_size) for width in inputs if bidirectional)
        self.norms = nn.ModuleList(make_norm(norm, self.output_size) for _ in inputs)
        self.dropout = nn.Dropout(dropout)

    @property
    def output_size(self) -> int:
        """Number of features of one output step, F."""
        return self.hidden_size * (1 + self.bidirectional)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first step, for ``batch_size`` rows."""
        states = [cell.initial_state(batch_size) for cell in _cells(self.layers)]
        if not self.bidirectional:
            return states
        return list(zip(states, [cell.initial_state(batch_size) for cell in _cells(self.reverse_layers)], strict=True))

    def forward(self, x_BTI: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Compute a batch of sequences: the outputs (B, T, F) and the last state.

        Args:
            x_BTI: Inputs of shape (batch, time, input_size).
            state: State to start from; None means :meth:`initial_state`.
            lengths: Number of valid steps of each row, of shape (batch,), at least 1; None means all. As with
                ``torch.nn.utils.rnn.pack_padded_sequence``, the reverse direction starts at the last valid step, the
                outputs after it are 0, and the last state of a row is the state after all its valid steps.

        Raises:
            ValueError: if an argument has another shape, or a length is not in [1, T].
        """
        lengths_B = self._check(x_BTI, lengths)
        initial = self.initial_state(x_BTI.shape[0])  # len() would be a constant in an exported program
        if state is not None:
            check_state("the state of Stack", state, initial)
        run = _run_whole if lengths_B is None else partial(_run_padded, lengths_B)
        return self._compute(x_BTI, initial if state is None else state, lengths_B, run)

    def outputs(self, x_BTI: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the outputs of :meth:`forward` alone.

        With lengths it is faster: each cell computes the whole batch in one call. :meth:`forward` makes one call for
        each distinct length, to know the last states.
        """
        lengths_B = self._check(x_BTI, lengths)
        return self._compute(x_BTI, self.initial_state(x_BTI.shape[0]), lengths_B, _run_whole)[0]

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute one step: the output (B, F) and the next state.

        Raises:
            ValueError: if the stack is bidirectional.
        """
        if self.bidirectional:
            raise ValueError("bidirectional must be False for a step, got True: the reverse direction starts last")
        return self._through([cell.step for cell in _cells(self.layers)], x_BI, state)

    def _compute(self, x_BTI: Tensor, state: State, lengths_B: Tensor | None, run: Run) -> tuple[Tensor, State]:
        if self.bidirectional:
            pairs = zip(_cells(self.layers), _cells(self.reverse_layers), strict=True)
            layers: list[Layer] = [partial(_run_both, run, lengths_B, *pair) for pair in pairs]
        else:
            layers = [partial(run, cell) for cell in _cells(self.layers)]
        y_BTF, state = self._through(layers, x_BTI, state)
        if lengths_B is not None:
            steps_T = torch.arange(x_BTI.shape[1], device=x_BTI.device)
            y_BTF = torch.where((steps_T < lengths_B[:, None])[..., None], y_BTF, 0)
        return y_BTF, state

    def _through(self, layers: Sequence[Layer], x: Tensor, state: State) -> tuple[Tensor, State]:
        return run_layers(layers, x, state, norms=self.norms, dropout=self.dropout, residual=self.residual)

    def _check(self, x_BTI: Tensor, lengths_B: Tensor | None) -> Tensor | None:
        """Check the input, and return the lengths on its device."""
        B, T = x_BTI.shape[:2]
        _cells(self.layers)[0].check_input(x_BTI)
        if lengths_B is None:
            return None
        if lengths_B.shape != (B,) or lengths_B.is_floating_point():
            raise ValueError(f"lengths must be {B} integers, got {lengths_B.dtype} of shape {tuple(lengths_B.shape)}")
        if lengths_B.min() < 1 or lengths_B.max() > T:
            raise ValueError(f"lengths must be in [1, {T}], got {int(lengths_B.min())} to {int(lengths_B.max())}")
        return lengths_B.to(x_BTI.device)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, residual={self.residual}, "
            f"norm={self.norm!r}, bidirectional={self.bidirectional}"
        )


def make_norm(norm: Norm, features: int) -> nn.Module:
    """Return the normalization of ``features`` features of a step.

    Raises:
        ValueError: for an unknown ``norm``.
    """
    return NORMS[one_of("norm", norm, tuple(NORMS))](features)


def run_layers(
    layers: Sequence[Layer],
    x: Tensor,
    states: Sequence[State],
    *,
    norms: Iterable[nn.Module],
    dropout: nn.Module,
    residual: bool,
) -> tuple[Tensor, list[State]]:
    """Apply layers to a sequence or to a step, by the equation of :class:`Stack`.

    Args:
        layers: Functions of input and state that return output and next state.
        x: Input of the first layer, features last.
        states: The state of each layer.
        norms: The normalization of each layer's output.
        dropout: Dropout of the outputs of all layers but the last.
        residual: Whether a layer's input is added to its output where they have the same width.

    Returns:
        The output of the last layer, and the next state of each layer.
    """
    z, following = x, []
    for number, (layer, norm, state) in enumerate(zip(layers, norms, states, strict=True), 1):
        y, after = layer(z, state)
        following.append(after)
        if number < len(layers):
            y = dropout(y)
        x = x + y if residual and x.shape[-1] == y.shape[-1] else y
        z = norm(x)
    return z, following


def _cells(layers: nn.ModuleList) -> list[Cell]:
    return cast("list[Cell]", list(layers))


def _run_both(
    run: Run, lengths_B: Tensor | None, cell: Cell, reverse_cell: Cell, x_BTI: Tensor, states: tuple[State, State]
) -> tuple[Tensor, State]:
    """Run a layer in both directions."""
    forward_BTH, after = run(cell, x_BTI, states[0])
    reverse_BTH, reverse_after = run(reverse_cell, _reversed(x_BTI, lengths_B), states[1])
    return torch.cat([forward_BTH, _reversed(reverse_BTH, lengths_B)], -1), (after, reverse_after)


def _reversed(x_BTI: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return each row with its valid steps in reverse order. Padding stays at the end."""
    if lengths_B is None:
        return x_BTI.flip(1)
    steps_T = torch.arange(x_BTI.shape[1], device=x_BTI.device)
    last_B1 = lengths_B[:, None] - 1
    source_BT = torch.where(steps_T <= last_B1, last_B1 - steps_T, steps_T)
    return x_BTI.take_along_dim(source_BT[..., None], 1)


def _run_whole(cell: Cell, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell over all steps, valid or not."""
    return cast("tuple[Tensor, State]", cell(x_BTI, state))


def _run_padded(lengths_B: Tensor, cell: Cell, x_BTI: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell over the valid steps of each row: outputs with 0 after them, and the state after the last one.

    The cell runs once from one end of a row to the next one, with the rows that have not ended.
    """
    B, T = x_BTI.shape[:2]
    segments, start = [], 0
    for end in sorted(set(lengths_B.tolist())):
        rows_N = (lengths_B >= end).nonzero()[:, 0]
        y_NTH, after = cell(x_BTI[rows_N, start:end], tree_map(lambda leaf, rows_N=rows_N: leaf[rows_N], state))
        state = tree_map(
            # a step may leave its state in low precision under autocast
            lambda leaf, part, rows_N=rows_N: leaf.index_copy(0, rows_N, part.to(leaf.dtype)),
            state,
            after,
        )
        segments.append(y_NTH.new_zeros(B, *y_NTH.shape[1:]).index_copy(0, rows_N, y_NTH))
        start = end
    segments.append(segments[0].new_zeros(B, T - start, segments[0].shape[2]))
    return torch.cat(segments, 1), state
