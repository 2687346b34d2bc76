"""Machine code for the operations of an expression.

exp is a polynomial without branches, so that LLVM computes it for a whole vector of units at once; sigmoid and tanh
are made of it. Its error is 1e-16 in float64 and 1e-7 in float32, relative to 1. The rarer functions call the C
library, one unit at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llvmlite import ir

from cells.engines.fused.code import INT
from cells.engines.fused.expressions import COMPARISONS, Expression

FLAGS = ("contract", "nsz")
SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
LIBRARY = {"log", "log1p", "expm1", "sin", "cos", "erf"}

# the smallest and largest argument, the two parts of log(2), and the coefficients of the polynomial in r, highest first
FLOAT = (-87.0, 88.0, 0.693359375, -2.12194440e-4, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
         1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0))  # fmt: skip  # Cephes
DOUBLE = (-708.0, 709.0, 6.93147180369123816490e-01, 1.90821492927058770002e-10,
          tuple(1 / math.factorial(k) for k in range(13, -1, -1)))  # fmt: skip


class Arithmetic:
    """Emits operations on reals of one type.

    Args:
        builder: Where code is added.
        real: float or double.
    """

    def __init__(self, builder: ir.IRBuilder, real: ir.Type) -> None:
        self.builder = builder
        self.real = real
        self.bits = ir.IntType(32) if real == ir.FloatType() else INT

    def number(self, value: float) -> ir.Constant:
        return ir.Constant(self.real, value)

    def emit(self, x: Expression, args: Sequence[ir.Value]) -> ir.Value:
        """Return the value of an expression from those of its operands."""
        b = self.builder
        operands = x.operands()
        if x.op in COMPARISONS:
            if operands[0].kind == "real":
                return (b.fcmp_unordered if x.op == "ne" else b.fcmp_ordered)(SIGNS[x.op], *args)
            return b.icmp_signed(SIGNS[x.op], *args)
        if x.op in ("and", "or"):
            return getattr(b, f"{x.op}_")(*args)
        if x.op == "not":
            return b.not_(*args)
        if x.op == "where":
            return b.select(*args)
        if x.op == "to_real":
            return (b.uitofp if operands[0].kind == "bool" else b.sitofp)(args[0], self.real)
        if x.kind == "int":
            return self._integer(x.op, args)
        return getattr(self, f"op_{x.op}", lambda *values: self._library(x.op, *values))(*args)

    def _integer(self, op: str, args: Sequence[ir.Value]) -> ir.Value:
        b = self.builder
        if op == "remainder":  # the sign of torch's remainder is that of the divisor
            rest = b.srem(*args)
            return b.srem(b.add(rest, args[1]), args[1])
        known: dict[str, Callable[..., ir.Value]] = {"add": b.add, "sub": b.sub, "mul": b.mul, "neg": b.neg}
        if op in ("maximum", "minimum"):
            return b.select(b.icmp_signed(">" if op == "maximum" else "<", *args), *args)
        return known[op](*args)

    def _library(self, op: str, x: ir.Value) -> ir.Value:
        name = op if self.real == ir.DoubleType() else f"{op}f"
        function = self.builder.module.globals.get(name)
        if function is None:
            function = ir.Function(self.builder.module, ir.FunctionType(self.real, [self.real]), name)
        return self.builder.call(function, [x])

    def _intrinsic(self, name: str, *args: ir.Value) -> ir.Value:
        function = self.builder.module.declare_intrinsic(f"llvm.{name}", [self.real])
        return self.builder.call(function, args)

    def op_add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.fadd(x, y, flags=FLAGS)

    def op_sub(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.fsub(x, y, flags=FLAGS)

    def op_mul(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.fmul(x, y, flags=FLAGS)

    def op_div(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.builder.fdiv(x, y, flags=FLAGS)

    def op_neg(self, x: ir.Value) -> ir.Value:
        return self.builder.fneg(x)

    def op_abs(self, x: ir.Value) -> ir.Value:
        return self._intrinsic("fabs", x)

    def op_sqrt(self, x: ir.Value) -> ir.Value:
        return self._intrinsic("sqrt", x)

    def op_sign(self, x: ir.Value) -> ir.Value:
        b, zero = self.builder, self.number(0.0)
        negative = b.select(b.fcmp_ordered("<", x, zero), self.number(-1.0), zero)
        return b.select(b.fcmp_ordered(">", x, zero), self.number(1.0), negative)

    def op_maximum(self, x: ir.Value, y: ir.Value) -> ir.Value:
        b = self.builder
        return b.select(b.or_(b.fcmp_ordered(">", x, y), b.fcmp_unordered("uno", x, x)), x, y)

    def op_minimum(self, x: ir.Value, y: ir.Value) -> ir.Value:
        b = self.builder
        return b.select(b.or_(b.fcmp_ordered("<", x, y), b.fcmp_unordered("uno", x, x)), x, y)

    def op_sigmoid(self, x: ir.Value) -> ir.Value:
        one = self.number(1.0)
        return self.op_div(one, self.op_add(one, self._exp(self.op_neg(x))))

    def op_tanh(self, x: ir.Value) -> ir.Value:
        one = self.number(1.0)
        fraction = self.op_div(self.number(2.0), self.op_add(one, self._exp(self.op_add(x, x))))
        return self.op_sub(one, fraction)

    def op_exp(self, x: ir.Value) -> ir.Value:
        """Unlike the exp inside sigmoid and tanh it reaches 0 and infinity."""
        b = self.builder
        least, most, *_ = FLOAT if self.real == ir.FloatType() else DOUBLE
        y = b.select(b.fcmp_ordered("<", x, self.number(least)), self.number(0.0), self._exp(x))
        return b.select(b.fcmp_ordered(">", x, self.number(most)), self.number(math.inf), y)

    def _exp(self, x: ir.Value) -> ir.Value:
        """2^n e^r with x = n log 2 + r; the argument is kept within the range of the type."""
        b = self.builder
        single = self.real == ir.FloatType()
        least, most, high, low, coefficients = FLOAT if single else DOUBLE
        mantissa, bias = (23, 127) if single else (52, 1023)
        magic = 1.5 * 2.0**mantissa  # adding it rounds to an integer, which is then in the low bits
        x = b.select(b.fcmp_ordered("<", x, self.number(least)), self.number(least), x)
        x = b.select(b.fcmp_ordered(">", x, self.number(most)), self.number(most), x)
        shifted = self.op_add(self.op_mul(x, self.number(1 / math.log(2))), self.number(magic))
        n = b.bitcast(shifted, self.bits)
        rounded = b.fsub(shifted, self.number(magic))
        r = self.op_sub(self.op_sub(x, self.op_mul(rounded, self.number(high))), self.op_mul(rounded, self.number(low)))
        total = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            total = self.op_add(self.op_mul(total, r), self.number(coefficient))
        exponent = b.shl(b.add(n, ir.Constant(self.bits, bias)), ir.Constant(self.bits, mantissa))
        return self.op_mul(total, b.bitcast(exponent, self.real))
