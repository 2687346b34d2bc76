"""Sentences for bad arguments: the name, the value and what is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
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


def closest_first(name: str, known: Iterable[str]) -> str:
    """``known`` as a text: the names that resemble ``name`` first, then the others in alphabetical order."""
    by_lower = {other.lower(): other for other in sorted(set(known))}
    close = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    return ", ".join(close + [other for other in by_lower.values() if other not in close])
