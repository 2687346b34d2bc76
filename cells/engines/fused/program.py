"""A step compiled for this processor: everything that does not change from one sequence to the next."""

from __future__ import annotations

import ctypes

import torch

from cells.engines.fused.code import compile_text
from cells.engines.fused.derivatives import StageExpressions
from cells.engines.fused.kept import choose_kept
from cells.engines.fused.matrix_product import matrix_products
from cells.engines.fused.schedule import Schedule
from cells.engines.fused.sequence import generate


class Native:
    """A compiled function of named integers, which it takes as one array.

    Args:
        address: Where it is.
        names: Names of the integers, in order.
    """

    def __init__(self, address: int, names: tuple[str, ...]) -> None:
        self.names = names
        self._array = ctypes.c_int64 * len(names)
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)  # runs without Python's lock

    def arguments(self, values: dict[str, int]) -> ctypes.Array[ctypes.c_int64]:
        """Return the array for integers by name; those without a value are 0."""
        return self._array(*(values.get(name, 0) for name in self.names))

    def __call__(self, arguments: ctypes.Array[ctypes.c_int64]) -> None:
        self._function(ctypes.addressof(arguments))


class Program:
    """A schedule with its machine code.

    Args:
        schedule: The step.
        stages: Its expressions.
        dtype: float32 or float64.

    Attributes:
        kept: What the forward pass keeps.
        widths: Number of features of each array, by the name that the code has for it.
        forward: The forward pass of a block of rows.
        backward: Its backward pass.
        products: Matrix products.
        numbers: Constants of the step.
    """

    def __init__(self, schedule: Schedule, stages: list[StageExpressions], dtype: torch.dtype) -> None:
        self.schedule = schedule
        self.dtype = dtype
        self.kept = choose_kept(schedule, stages)
        code = generate(schedule, stages, self.kept, dtype == torch.float32)
        self._engine = compile_text(code.text)
        self.forward = Native(self._engine.get_function_address("forward"), code.forward)
        self.backward = Native(self._engine.get_function_address("backward"), code.backward)
        self.products = matrix_products(dtype)
        self.numbers = torch.tensor(schedule.numbers, dtype=dtype)
        self.widths = {
            **{f"width_leaf{i}": leaf[0].numel() for i, leaf in enumerate(schedule.leaves)},
            **{f"width_accumulator{i}": a.width for i, a in enumerate(schedule.accumulators)},
            **{f"width_sequence{i}": width for i, width in enumerate(schedule.sequences)},
            **{f"width_value{i}": width for i, width in enumerate(schedule.values)},
            **{f"units{i}": stage.width for i, stage in enumerate(stages)},
            "width_y": stages[-1].width * len(stages[-1].outputs[0]),
        }

    def width(self, name: str) -> int:
        return self.widths[f"width_{name}"]
