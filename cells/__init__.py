"""Recurrent cells: one small class each, at the speed of the vendor's kernel.

A sequence in, a sequence out, batch first: ``y_BTH, state = MomentumLSTM(3, 8, momentum=0.6)(x_BTI)``.
"""

from cells.cell import Cell
from cells.checks import check_cell
from cells.driven import DrivenCell, DrivenState
from cells.drives import Drive
from cells.dtriv import DTRIV, SRDTRIV, AdamDTRIV, CayleyRNN, ExpRNN, MomentumDTRIV, RMSPropDTRIV
from cells.flops import Flops, flops
from cells.gains import GainReport, gain_report
from cells.gru import GRU, SRGRU, AdamGRU, MomentumGRU, RMSPropGRU
from cells.lmu import LMU
from cells.lstm import LSTM, SRLSTM, AdamLSTM, MomentumLSTM, RMSPropLSTM
from cells.nesterov import NesterovDTRIV, NesterovGRU, NesterovLSTM, NesterovRNN, NesterovState
from cells.registry import find_cell, load_entry_points, registered_cells
from cells.rnn import RNN, SRRNN, AdamRNN, MomentumRNN, RMSPropRNN
from cells.state import detach, move, reset_rows
from cells.training import follow_optimizer, parameter_roles

__all__ = [
    "DTRIV",
    "GRU",
    "LMU",
    "LSTM",
    "RNN",
    "SRDTRIV",
    "SRGRU",
    "SRLSTM",
    "SRRNN",
    "AdamDTRIV",
    "AdamGRU",
    "AdamLSTM",
    "AdamRNN",
    "CayleyRNN",
    "Cell",
    "Drive",
    "DrivenCell",
    "DrivenState",
    "ExpRNN",
    "Flops",
    "GainReport",
    "MomentumDTRIV",
    "MomentumGRU",
    "MomentumLSTM",
    "MomentumRNN",
    "NesterovDTRIV",
    "NesterovGRU",
    "NesterovLSTM",
    "NesterovRNN",
    "NesterovState",
    "RMSPropDTRIV",
    "RMSPropGRU",
    "RMSPropLSTM",
    "RMSPropRNN",
    "check_cell",
    "detach",
    "find_cell",
    "flops",
    "follow_optimizer",
    "gain_report",
    "load_entry_points",
    "move",
    "parameter_roles",
    "registered_cells",
    "reset_rows",
]
