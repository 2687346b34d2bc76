"""Search spaces of hyperparameters, and the points that are tried in them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["uniform", "log_uniform", "integer", "choice"]
Value = bool | int | float | str | None
KINDS = get_args(Kind)
DIGITS = 4  # significant digits of a drawn number: more would make configurations hard to read


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter that is tuned.

    Args:
        name: Option of ``fit`` (with a dot), or argument of the cell (without).
        kind: ``uniform``, ``log_uniform``, ``integer`` (all values between two bounds), or ``choice``.
        values: The two bounds, or the values to choose from.
    """

    name: str
    kind: Kind
    values: tuple[Value, ...]

    @classmethod
    def read(cls, name: str, given: Any) -> Dimension:
        """Return the dimension that a study file describes, such as ``{log_uniform: [0.001, 0.1]}``.

        Raises:
            ValueError: if it is not one, or has no points.
        """
        if not is_space(given):
            raise ValueError(f"{name} must be one of {', '.join(KINDS)} with its values, got {given!r}")
        ((kind, values),) = given.items()
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name}: {kind} must have a list of values, got {values!r}: the space has no points")
        if kind == "choice":
            if unfit := [value for value in values if not isinstance(value, Value)]:
                raise ValueError(f"{name}: choice must hold numbers, texts, true, false or null, got {unfit[0]!r}")
            if len({(type(value), value) for value in values}) < len(values):
                raise ValueError(f"{name}: choice has the same value twice: {values!r}")
            return cls(name, kind, tuple(values))
        accepted = int if kind == "integer" else (int, float)
        if len(values) != 2 or any(not isinstance(end, accepted) or isinstance(end, bool) for end in values):
            number = "integers" if kind == "integer" else "numbers"
            raise ValueError(f"{name}: {kind} must have two {number}, the lowest and the highest, got {values!r}")
        low, high = values
        if not low < high or not all(map(math.isfinite, values)):
            raise ValueError(f"{name}: {kind} must have a lowest below its highest value, got {values!r}")
        if kind == "log_uniform" and low <= 0:
            raise ValueError(f"{name}: log_uniform must have bounds above 0, got {values!r}")
        return cls(name, kind, (low, high))

    @property
    def numeric(self) -> bool:
        """Whether values can be ordered and drawn along an axis."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values)

    def at(self, u: float) -> Value:
        """Return the value at the quantile ``u`` in [0, 1)."""
        if self.kind == "choice":
            return self.values[int(u * len(self.values))]
        low, high = self.bounds
        if self.kind == "integer":
            return int(low) + int(u * (high - low + 1))
        if self.kind == "uniform":
            return self.rounded(low + u * (high - low))
        return self.rounded(low * (high / low) ** u)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a dimension that is no choice."""
        low, high = self.values
        assert isinstance(low, (int, float))
        assert isinstance(high, (int, float))
        return low, high

    def rounded(self, value: Value) -> Value:
        """Return a drawn number with four significant digits, inside the bounds; other values unchanged."""
        if self.kind in ("choice", "integer") or not isinstance(value, float):
            return value
        low, high = self.bounds
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def is_space(given: Any) -> bool:
    """Return whether a value of a study file is a search space instead of a constant."""
    return isinstance(given, dict) and len(given) == 1 and next(iter(given)) in KINDS


def quasi_random(dimensions: Sequence[Dimension], count: int) -> list[dict[str, Value]]:
    """Return ``count`` points of a scrambled Halton sequence.

    The first points of a longer sequence are those of a shorter one, and the first dimensions do not depend on the
    later ones. So a larger budget keeps the points already run, and all cells try the same values of the shared
    hyperparameters.
    """
    from scipy.stats import qmc

    if not dimensions:
        return [{}]
    return _points(dimensions, qmc.Halton(len(dimensions), rng=0).random(count))


def independent(dimensions: Sequence[Dimension], count: int) -> list[dict[str, Value]]:
    """Return ``count`` independent uniform draws; as for :func:`quasi_random`, the first ones do not change."""
    import numpy as np

    if not dimensions:
        return [{}]
    columns = [np.random.RandomState(number).random_sample(count) for number in range(len(dimensions))]
    return _points(dimensions, zip(*columns, strict=True))


def grid(dimensions: Sequence[Dimension]) -> list[dict[str, Value]]:
    """Return every combination of the choices."""
    names = [dimension.name for dimension in dimensions]
    combinations = itertools.product(*(dimension.values for dimension in dimensions))
    return [dict(zip(names, values, strict=True)) for values in combinations]


def _points(dimensions: Sequence[Dimension], quantiles: Iterable[Iterable[float]]) -> list[dict[str, Value]]:
    return [
        {dimension.name: dimension.at(float(u)) for dimension, u in zip(dimensions, row, strict=True)}
        for row in quantiles
    ]
