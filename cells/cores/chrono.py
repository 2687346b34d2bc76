"""LSTM and GRU with the chrono initialisation by name; any gated cell takes it by its argument ``max_timescale``."""

from __future__ import annotations

from typing import Any

from cells.cores.gru import GRU
from cells.cores.lstm import LSTM


class ChronoLSTM(LSTM):
    """LSTM whose biases start at b_f = log U(1, T_max - 1), b_i = -b_f.

    It tests whether what momentum gains is only a longer memory at the start of training.

    Source: Tallec and Ollivier, "Can Recurrent Neural Networks Warp Time?", ICLR 2018.

    Args:
        max_timescale: T_max, the longest time to be remembered in steps; above 2.
    """

    def __init__(self, input_size: int, hidden_size: int, *, max_timescale: float = 100.0, **lstm: Any) -> None:
        super().__init__(input_size, hidden_size, max_timescale=max_timescale, **lstm)


class ChronoGRU(GRU):
    """GRU whose bias starts at b_z = log U(1, T_max - 1), z being the gate that keeps h.

    It tests whether what momentum gains is only a longer memory at the start of training.

    Source: Tallec and Ollivier, "Can Recurrent Neural Networks Warp Time?", ICLR 2018.

    Args:
        max_timescale: T_max, the longest time to be remembered in steps; above 2.
    """

    def __init__(self, input_size: int, hidden_size: int, *, max_timescale: float = 100.0, **gru: Any) -> None:
        super().__init__(input_size, hidden_size, max_timescale=max_timescale, **gru)
