"""Scalar expressions: what a pointwise kernel computes for one unit of one row.

An expression is a node of a directed acyclic graph. Equal expressions are one object, so common subexpressions are
computed once. Arithmetic with the constants 0 and 1 is simplified, because derivatives are full of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["real", "int", "bool"]

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
LOGIC = frozenset({"and", "or", "not"})


@dataclass(frozen=True, eq=False)
class Expression:
    """One operation.

    Attributes:
        op: Its name: ``input``, ``number``, or an operation of :mod:`cells.engines.fused.arithmetic`.
        args: The operands; of an input its name and block, of a number its value.
        kind: Type of the result.
        per_row: Whether the result is the same for every unit of a row.
    """

    op: str
    args: tuple[object, ...]
    kind: Kind
    per_row: bool

    def operands(self) -> tuple[Expression, ...]:
        return tuple(arg for arg in self.args if isinstance(arg, Expression))


class Table:
    """The expressions of one kernel."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Expression] = {}

    def _node(self, op: str, args: tuple[object, ...], kind: Kind, per_row: bool) -> Expression:
        key = (op, *args)
        if key not in self._known:
            self._known[key] = Expression(op, args, kind, per_row)
        return self._known[key]

    def input(self, name: str, block: int, kind: Kind = "real", per_row: bool = False) -> Expression:
        """Return the number in ``block`` of the array ``name``."""
        return self._node("input", (name, block), kind, per_row)

    def number(self, value: float | int | bool) -> Expression:
        """Return a constant."""
        kind: Kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
        return self._node("number", (kind, value), kind, True)

    def lift(self, value: object) -> Expression:
        """Return ``value`` as an expression."""
        if isinstance(value, Expression):
            return value
        assert isinstance(value, (bool, int, float)), value
        return self.number(value)

    def apply(self, op: str, *values: object) -> Expression:
        """Return the result of an operation, simplified.

        Integers are converted where the other operand is real, as torch does.
        """
        args = [self.lift(value) for value in values]
        if op in ("add", "sub", "mul", "div", "where", "maximum", "minimum", *COMPARISONS):
            args = self._same_kind(op, args)
        simple = self._simplified(op, args)
        if simple is not None:
            return simple
        kind: Kind = "bool" if op in COMPARISONS or op in LOGIC else "real" if op == "to_real" else args[-1].kind
        return self._node(op, tuple(args), kind, all(arg.per_row for arg in args))

    def to_real(self, x: Expression) -> Expression:
        """Return a count or a truth value as a real number."""
        if x.kind == "real":
            return x
        if x.op == "number":
            return self.number(float(x.args[1]))  # type: ignore[arg-type]
        return self._node("to_real", (x,), "real", x.per_row)

    def _same_kind(self, op: str, args: list[Expression]) -> list[Expression]:
        first = 1 if op == "where" else 0
        kinds = {arg.kind for arg in args[first:]}
        if len(kinds) > 1 or op == "div" or (kinds == {"bool"} and op in ("add", "sub", "mul")):
            args = args[:first] + [self.to_real(arg) for arg in args[first:]]
        return args

    def _simplified(self, op: str, args: list[Expression]) -> Expression | None:
        if op == "where" and args[0].op == "number":
            return args[1] if args[0].args[1] else args[2]
        if op == "where" and args[1] is args[2]:
            return args[1]
        if op == "neg":
            if args[0].op == "neg":
                return args[0].operands()[0]
            return self.number(-args[0].args[1]) if args[0].op == "number" else None  # type: ignore[operator]
        if op not in ("add", "sub", "mul", "div"):
            return None
        a, b = args
        if a.op == b.op == "number" and op != "div":
            x, y = a.args[1], b.args[1]
            return self.number(x + y if op == "add" else x - y if op == "sub" else x * y)  # type: ignore[operator]
        if op == "add" and is_number(a, 0):
            return b
        if op in ("add", "sub") and is_number(b, 0):
            return a
        if op == "sub" and is_number(a, 0):
            return self.apply("neg", b)
        if op == "mul" and (is_number(a, 0) or is_number(b, 0)):
            return a if is_number(a, 0) else b
        if op == "mul" and is_number(a, 1):
            return b
        if op in ("mul", "div") and is_number(b, 1):
            return a
        return None


def is_number(x: Expression, value: float) -> bool:
    """Return whether ``x`` is the constant ``value``."""
    return x.op == "number" and x.args[1] == value


def in_order(outputs: Iterable[Expression]) -> list[Expression]:
    """Return all expressions that ``outputs`` need, operands first."""
    done: dict[Expression, None] = {}
    stack = [(output, False) for output in outputs]
    while stack:
        x, ready = stack.pop()
        if x in done:
            continue
        if ready:
            done[x] = None
        else:
            stack.append((x, True))
            stack.extend((arg, False) for arg in reversed(x.operands()))
    return list(done)
