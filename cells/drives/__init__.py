"""Drives: transformations of the input of a recurrence by the update rule of an optimizer.

A drive turns a_t = W x_t + b_ih into v_t, elementwise in the channels, and never sees the hidden state.
"""

from cells.drives.adaptive import Adam, RMSProp
from cells.drives.base import Drive, Identity
from cells.drives.momentum import Momentum
from cells.drives.restart import ScheduledRestart, restart_schedule

__all__ = ["Adam", "Drive", "Identity", "Momentum", "RMSProp", "ScheduledRestart", "restart_schedule"]
