"""Sentences for bad arguments: the name, the value and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Choice = TypeVar("Choice")


def number_in(interval: str, name: str, value: float) -> float:
    """Return ``value`` if it lies in ``interval``, written as in mathematics: ``"[0, 1)"``.

    Raises:
        ValueError: if it does not, or if it is not a number.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        above = low < value if interval[0] == "(" else low <= value
        below = value < high if interval[-1] == ")" else value <= high
        if above and below:
            return value
    raise ValueError(f"{name} is {value!r}; a number in {interval} is expected")


def positive_int(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least 1.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"{name} is {value!r}; an integer of at least 1 is expected")


def one_of(name: str, value: Choice, choices: Sequence[Choice]) -> Choice:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: if it is not.
    """
    if value in choices:
        return value
    raise ValueError(f"{name} is {value!r}; one of {', '.join(map(repr, choices))} is expected")
