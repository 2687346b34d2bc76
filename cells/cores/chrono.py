"""LSTM and GRU with the chrono initialization; other gated cells have it by the argument ``max_timescale``."""

from __future__ import annotations

from typing import Any

from cells.cores.gru import GRU
from cells.cores.lstm import LSTM


class ChronoLSTM(LSTM):
    """LSTM with initial biases b_f = log U(1, T_max - 1), b_i = -b_f.

    It tests whether the gain of momentum is only a longer memory at the start of training.

    Source: Tallec and Ollivier, "Can Recurrent Neural Networks Warp Time?", ICLR 2018.

    Args:
        max_timescale: T_max, the longest time to remember, in steps; above 2.
    """

    def __init__(self, input_size: int, hidden_size: int, *, max_timescale: float = 100.0, **lstm: Any) -> None:
        super().__init__(input_size, hidden_size, max_timescale=max_timescale, **lstm)


class ChronoGRU(GRU):
    """GRU with initial bias b_z = log U(1, T_max - 1) of the update gate z.

    It tests whether the gain of momentum is only a longer memory at the start of training.

    Source: Tallec and Ollivier, "Can Recurrent Neural Networks Warp Time?", ICLR 2018.

    Args:
        max_timescale: T_max, the longest time to remember, in steps; above 2.
    """

    def __init__(self, input_size: int, hidden_size: int, *, max_timescale: float = 100.0, **gru: Any) -> None:
        super().__init__(input_size, hidden_size, max_timescale=max_timescale, **gru)
