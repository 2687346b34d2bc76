"""How a command can end other than well: what the user reads, and the exit status."""

from __future__ import annotations

import signal


class UserError(Exception):
    """A mistake that the user can mend: the sentence says the value and what is accepted."""

    status = 2  # 1 is Python's own, for an error in the program


class DivergenceError(UserError):
    """Training that cannot go on because its numbers are not finite."""

    status = 3


class LostProcessError(UserError):
    """Another process of the run has ended, so this one must."""

    status = 4


class Stopped(Exception):  # noqa: N818  # no error: it was asked for
    """Training that a signal has stopped, after a checkpoint was written.

    Args:
        number: The signal.
        step: Optimiser steps done.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.status = 128 + number  # as shells report a process that a signal has ended
