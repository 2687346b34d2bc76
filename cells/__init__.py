"""Recurrent cells: one small class each, at the speed of the vendor's kernel.

A sequence in, a sequence out, batch first: ``y_BTH, state = MomentumLSTM(3, 8, momentum=0.6)(x_BTI)``.
"""

from cells.cell import Cell
from cells.checks import check_cell
from cells.chrono import ChronoGRU, ChronoLSTM
from cells.driven import DrivenCell, DrivenState, Flops
from cells.drives import Drive
from cells.dtriv import DTRIV, SRDTRIV, AdamDTRIV, CayleyRNN, ExpRNN, MomentumDTRIV, RMSPropDTRIV
from cells.explanations import FilteredLSTM, GatedMomentumLSTM, LearnedMomentumLSTM, LinearStateLSTM, ScaledLSTM
from cells.flops import flops
from cells.gains import GainReport, gain_report
from cells.gru import GRU, SRGRU, AdamGRU, MomentumGRU, RMSPropGRU
from cells.householder import HouseholderRNN
from cells.janet import JANET, AdamJANET, MomentumJANET, RMSPropJANET
from cells.lmu import LMU
from cells.lstm import LSTM, SRLSTM, AdamLSTM, MomentumLSTM, RMSPropLSTM
from cells.nesterov import NesterovDTRIV, NesterovGRU, NesterovLSTM, NesterovRNN, NesterovState
from cells.nru import NRU
from cells.registry import find_cell, load_entry_points, registered_cells
from cells.rnn import RNN, SRRNN, AdamRNN, MomentumRNN, RMSPropRNN
from cells.state import detach, move, reset_rows
from cells.training import follow_optimizer, parameter_roles
from cells.unitary import UnitaryRNN
from cells.ur import URGRU, URLSTM, AdamURLSTM, MomentumURLSTM, RMSPropURLSTM

__all__ = [
    "DTRIV",
    "GRU",
    "JANET",
    "LMU",
    "LSTM",
    "NRU",
    "RNN",
    "SRDTRIV",
    "SRGRU",
    "SRLSTM",
    "SRRNN",
    "URGRU",
    "URLSTM",
    "AdamDTRIV",
    "AdamGRU",
    "AdamJANET",
    "AdamLSTM",
    "AdamRNN",
    "AdamURLSTM",
    "CayleyRNN",
    "Cell",
    "ChronoGRU",
    "ChronoLSTM",
    "Drive",
    "DrivenCell",
    "DrivenState",
    "ExpRNN",
    "FilteredLSTM",
    "Flops",
    "GainReport",
    "GatedMomentumLSTM",
    "HouseholderRNN",
    "LearnedMomentumLSTM",
    "LinearStateLSTM",
    "MomentumDTRIV",
    "MomentumGRU",
    "MomentumJANET",
    "MomentumLSTM",
    "MomentumRNN",
    "MomentumURLSTM",
    "NesterovDTRIV",
    "NesterovGRU",
    "NesterovLSTM",
    "NesterovRNN",
    "NesterovState",
    "RMSPropDTRIV",
    "RMSPropGRU",
    "RMSPropJANET",
    "RMSPropLSTM",
    "RMSPropRNN",
    "RMSPropURLSTM",
    "ScaledLSTM",
    "UnitaryRNN",
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
