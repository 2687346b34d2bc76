"""Checks of arguments. Each error message has the form ``momentum must be in [0, 1), got 1.5``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TypeVar

Choice = TypeVar("Choice")


def number_in(interval: str, name: str, value: float) -> float:
    """Return ``value`` if it is a number in ``interval``, written as in mathematics: ``"[0, 1)"``.

    Raises:
        ValueError: if it is not.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        above = low < value if interval[0] == "(" else low <= value
        below = value < high if interval[-1] == ")" else value <= high
        if above and below:
            return value
    raise ValueError(f"{name} must be in {interval}, got {value!r}")


def positive_int(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least 1 that torch can store.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if value >= 2**63:  # torch's integers have 64 bits
        raise ValueError(f"{name} must be less than 2^63, got {value}")
    return value


def one_of(name: str, value: Choice, choices: Sequence[Choice]) -> Choice:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: if it is not.
    """
    if value in choices:
        return value
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def closest_first(name: str, known: Iterable[str]) -> str:
    """Return ``known`` as a list in one string: names similar to ``name`` first, the others in alphabetical order."""
    by_lower = {other.lower(): other for other in sorted(set(known))}
    close = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    return ", ".join(close + [other for other in by_lower.values() if other not in close])
