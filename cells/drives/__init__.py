"""Drives: what an optimizer does to the input of a recurrence before the recurrence sees it.

A drive turns a_t into v_t, each channel by itself, and never sees the hidden state. A linear drive commutes with the
input weight, v_t = W x~_t + b_ih s~_t with x~ the driven input and s~ the driven 1. It then runs on I + 1 channels
instead of on every gate, and any kernel for the plain recurrence can follow it.
"""

from cells.drives.adaptive import Adam, RMSProp
from cells.drives.base import Drive, Identity
from cells.drives.momentum import Momentum
from cells.drives.restart import ScheduledRestart, restart_schedule

__all__ = ["Adam", "Drive", "Identity", "Momentum", "RMSProp", "ScheduledRestart", "restart_schedule"]
