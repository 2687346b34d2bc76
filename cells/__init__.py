"""Recurrent cells: one small class each, at the speed of the vendor's kernel.

A sequence in, a sequence out, batch first: ``y_BTH, state = MomentumLSTM(3, 8, momentum=0.6)(x_BTI)``.
"""

from cells.cell import Cell
from cells.checks import check_cell
from cells.driven import DrivenCell, DrivenState
from cells.drives import Drive
from cells.gru import GRU, MomentumGRU
from cells.lstm import LSTM, MomentumLSTM
from cells.registry import find_cell, load_entry_points, registered_cells
from cells.rnn import RNN, MomentumRNN
from cells.state import detach, move, reset_rows

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "Drive",
    "DrivenCell",
    "DrivenState",
    "MomentumGRU",
    "MomentumLSTM",
    "MomentumRNN",
    "check_cell",
    "detach",
    "find_cell",
    "load_entry_points",
    "move",
    "registered_cells",
    "reset_rows",
]
