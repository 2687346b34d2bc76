"""Recurrent cells: one small class each, as fast as torch's own layers.

A cell maps a sequence to a sequence, batch first: ``y_BTH, state = MomentumLSTM(3, 8, momentum=0.6)(x_BTI)``.
"""

from cells.ablations import FilteredLSTM, GatedMomentumLSTM, LearnedMomentumLSTM, LinearStateLSTM, ScaledLSTM
from cells.analysis.flops import flops
from cells.analysis.gains import GainReport, gain_report
from cells.cell import Cell
from cells.checks import check_cell
from cells.cores.base import Core
from cells.cores.chrono import ChronoGRU, ChronoLSTM
from cells.cores.gru import GRU, SRGRU, AdamGRU, MomentumGRU, RMSPropGRU
from cells.cores.householder import HouseholderRNN
from cells.cores.janet import JANET, AdamJANET, MomentumJANET, RMSPropJANET
from cells.cores.lstm import LSTM, SRLSTM, AdamLSTM, MomentumLSTM, RMSPropLSTM
from cells.cores.orthogonal import DTRIV, SRDTRIV, AdamDTRIV, CayleyRNN, ExpRNN, MomentumDTRIV, RMSPropDTRIV
from cells.cores.refined_gates import URGRU, URLSTM, AdamURLSTM, MomentumURLSTM, RMSPropURLSTM
from cells.cores.tanh import RNN, SRRNN, AdamRNN, MomentumRNN, RMSPropRNN
from cells.cores.unitary import UnitaryRNN
from cells.driven import DrivenCell, DrivenState
from cells.drives import Drive
from cells.introspection import Flops
from cells.lmu import LMU
from cells.nesterov import NesterovDTRIV, NesterovGRU, NesterovLSTM, NesterovRNN, NesterovState
from cells.nru import NRU
from cells.optimization import follow_optimizer, parameter_roles
from cells.registry import find_cell, load_entry_points, registered_cells
from cells.stack import Stack
from cells.state import detach, move, reset_rows

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
    "Core",
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
    "Stack",
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
