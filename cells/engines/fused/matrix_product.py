"""Machine code for a matrix product, by a call of BLAS."""

from __future__ import annotations

from llvmlite import ir

from cells.engines.fused.code import INT, POINTER, VOID, Function


def emit_product(module: ir.Module, real: ir.Type) -> ir.Function:
    """Write the function ``product(gemm, transposed, add, m, n, k, a, a_stride, b, b_stride, c)``.

    It computes C (m, n) = A (m, k) B (k, n), or adds to C. All three are by rows; if ``transposed``, A is in memory as
    (k, m).
    BLAS counts by columns, so it computes the transposed product.
    """
    f = Function(module, "product", [INT] * 11)
    f.function.attributes.add("noinline")
    b = f.builder
    gemm, transposed, add, m, n, k, a, a_stride, right, right_stride, c = f.function.args
    i8, i32 = ir.IntType(8), ir.IntType(32)

    def place(value: ir.Value) -> ir.Value:
        slot = f.at_entry(lambda entry: entry.alloca(value.type))
        b.store(value, slot)
        return slot

    def choose(condition: ir.Value, yes: ir.Constant, no: ir.Constant) -> ir.Value:
        return b.select(b.icmp_unsigned("!=", condition, ir.Constant(INT, 0)), yes, no)

    plain, turned = ir.Constant(i8, ord("N")), ir.Constant(i8, ord("T"))
    zero, one = ir.Constant(real, 0.0), ir.Constant(real, 1.0)
    sizes = [place(b.trunc(value, i32)) for value in (n, m, k)]
    strides = [place(b.trunc(value, i32)) for value in (right_stride, a_stride, n)]
    addresses = [b.inttoptr(value, POINTER) for value in (right, a, c)]
    arguments = [place(plain), place(choose(transposed, turned, plain)), *sizes, place(one)]
    arguments += [addresses[0], strides[0], addresses[1], strides[1], place(choose(add, one, zero))]
    arguments += [addresses[2], strides[2]]
    kind = ir.FunctionType(VOID, [POINTER] * len(arguments))
    b.call(b.inttoptr(gemm, kind.as_pointer()), arguments)
    return f.finish()
