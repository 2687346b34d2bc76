"""Writing machine code: integers, loops, memory and calls on top of llvmlite's builder, and the compiler.

The code of the engine is small, so it is compiled in a tenth of a second in every process, without a cache on disk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

POINTER = ir.PointerType()
INT = ir.IntType(64)
VOID = ir.VoidType()


class Int:
    """A 64-bit integer of the generated code, with Python's operators."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    def _of(self, other: Int | int) -> ir.Value:
        return other.value if isinstance(other, Int) else ir.Constant(INT, other)

    def __add__(self, other: Int | int) -> Int:
        return Int(self.builder, self.builder.add(self.value, self._of(other)))

    def __sub__(self, other: Int | int) -> Int:
        return Int(self.builder, self.builder.sub(self.value, self._of(other)))

    def __mul__(self, other: Int | int) -> Int:
        return Int(self.builder, self.builder.mul(self.value, self._of(other)))

    def __mod__(self, other: Int | int) -> Int:
        return Int(self.builder, self.builder.urem(self.value, self._of(other)))

    def __floordiv__(self, other: Int | int) -> Int:
        return Int(self.builder, self.builder.udiv(self.value, self._of(other)))

    def is_less(self, other: Int) -> Int:
        """Return 1 if it is less than ``other``, else 0."""
        return Int(self.builder, self.builder.zext(self.builder.icmp_signed("<", self.value, other.value), INT))

    def least(self, other: Int) -> Int:
        """Return the smaller of two."""
        smaller = self.builder.icmp_signed("<", self.value, other.value)
        return Int(self.builder, self.builder.select(smaller, self.value, other.value))


class Function:
    """A function under construction.

    Args:
        module: Where it belongs.
        name: Its name.
        arguments: Types of its arguments.
        public: Whether it is called from Python.
    """

    def __init__(self, module: ir.Module, name: str, arguments: Sequence[ir.Type], public: bool = False) -> None:
        self.function = ir.Function(module, ir.FunctionType(VOID, arguments), name)
        if not public:
            self.function.linkage = "internal"
        self.entry = self.function.append_basic_block("entry")
        body = self.function.append_basic_block("body")
        self.builder = ir.IRBuilder(body)
        self._body = body

    def int(self, value: ir.Value | int) -> Int:
        return Int(self.builder, ir.Constant(INT, value) if isinstance(value, int) else value)

    def at_entry(self, make: Callable[[ir.IRBuilder], ir.Value]) -> ir.Value:
        """Return a value that is computed once, at the start of the function."""
        return make(ir.IRBuilder(self.entry))

    @contextmanager
    def loop(self, count: Int, backwards: bool = False) -> Iterator[Int]:
        """Run the body for 0, .., count - 1, or the other way round."""
        b = self.builder
        before = b.block
        head, body, after = (b.append_basic_block(name) for name in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(INT)
        index.add_incoming(ir.Constant(INT, 0), before)
        b.cbranch(b.icmp_signed("<", index, count.value), body, after)
        b.position_at_end(body)
        yield count - self.int(index) - 1 if backwards else self.int(index)
        index.add_incoming(b.add(index, ir.Constant(INT, 1)), b.block)
        b.branch(head)
        b.position_at_end(after)

    @contextmanager
    def when_set(self, address: Int) -> Iterator[None]:
        """Run the body if ``address`` is not 0."""
        with self.builder.if_then(self.builder.icmp_unsigned("!=", address.value, ir.Constant(INT, 0))):
            yield

    def copy(self, to: Int, start: Int, size: Int) -> None:
        """Copy ``size`` bytes."""
        b = self.builder
        copy = b.module.declare_intrinsic("llvm.memcpy", [POINTER, POINTER, INT])
        pointers = [b.inttoptr(x.value, POINTER) for x in (to, start)]
        b.call(copy, [*pointers, size.value, ir.Constant(ir.IntType(1), 0)])

    def on_stack(self, kind: ir.Type) -> Int:
        """Return the address of memory on the stack."""
        return self.int(self.at_entry(lambda entry: entry.ptrtoint(entry.alloca(kind), INT)))

    def call_at(self, address: Int, arguments: Sequence[Int]) -> None:
        """Call the function of integers at an address."""
        b = self.builder
        kind = ir.FunctionType(VOID, [INT] * len(arguments))
        b.call(b.inttoptr(address.value, kind.as_pointer()), [argument.value for argument in arguments])

    def call_one_of(self, functions: Sequence[ir.Function], index: Int, arguments: Sequence[Int]) -> None:
        """Call ``functions[index]``."""
        b = self.builder
        after = b.append_basic_block("after")
        choice = b.switch(index.value, after)
        for place, function in enumerate(functions):
            choice.add_case(ir.Constant(INT, place), block := b.append_basic_block("case"))
            b.position_at_end(block)
            b.call(function, [argument.value for argument in arguments])
            b.branch(after)
        b.position_at_end(after)

    def finish(self) -> ir.Function:
        self.builder.ret_void()
        ir.IRBuilder(self.entry).branch(self._body)
        return self.function


class Parameters:
    """The one argument of a compiled function: an array of 64-bit integers, each with a name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def read(self, function: Function, name: str) -> Int:
        """Return the parameter ``name``, registered at its first use."""
        if name not in self.names:
            self.names.append(name)
        place = self.names.index(name)

        def load(builder: ir.IRBuilder) -> ir.Value:
            where = builder.gep(function.function.args[0], [ir.Constant(INT, place)], source_etype=INT)
            return builder.load(where, typ=INT)

        return function.int(function.at_entry(load))


def new_module() -> ir.Module:
    """Return an empty module for this processor."""
    module = ir.Module()
    module.triple = llvm.get_default_triple()
    module.data_layout = str(_machine().target_data)
    return module


@functools.cache
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )


def processor_features() -> dict[str, bool]:
    """Return LLVM's names of the features of this processor."""
    return dict(llvm.get_host_cpu_features())


@functools.cache
def compile_text(text: str) -> Any:
    """Compile LLVM's assembly for this processor and return its execution engine, which must be kept alive."""
    machine = _machine()
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
