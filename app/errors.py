"""Exceptions that end a command, and their exit statuses."""

from __future__ import annotations

import signal


class UserError(Exception):
    """Invalid input: the message is one line with the value and what is accepted."""

    status = 2  # 1 is Python's status for an error in the program
    details: tuple[str, ...] = ()  # further lines of the message


class DivergenceError(UserError):
    """A loss or a weight that is not finite."""

    status = 3


class LostProcessError(UserError):
    """The loss of another process of the run."""

    status = 4


class Stopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """A training that a signal stopped after a checkpoint was written.

    Args:
        number: Signal number.
        step: Optimizer steps completed.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.status = 128 + number  # the status that shells report for a process ended by a signal
