"""A step compiled for this processor: everything that does not change from one sequence to the next."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

from cells.engines.fused.code import compile_text
from cells.engines.fused.derivatives import StageExpressions
from cells.engines.fused.kept import choose_kept
from cells.engines.fused.matrix_product import matrix_products
from cells.engines.fused.schedule import Schedule
from cells.engines.fused.sequence import generate

Native = Callable[[int], None]


class Program:
    """A schedule with its machine code.

    Args:
        schedule: The step.
        stages: Its expressions.
        dtype: float32 or float64.

    Attributes:
        kept: What the forward pass keeps.
        widths: Number of features of each array, by the name that the code has for it.
        products: Matrix products.
        numbers: Constants of the step.
    """

    def __init__(self, schedule: Schedule, stages: list[StageExpressions], dtype: torch.dtype) -> None:
        self.schedule = schedule
        self.dtype = dtype
        self.kept = choose_kept(schedule, stages)
        self.code = generate(schedule, stages, self.kept, dtype == torch.float32)
        self.engine = compile_text(self.code.text)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # ctypes releases Python's lock during the call
        self._forward: Native = kind(self.engine.get_function_address("forward"))
        self._backward: Native = kind(self.engine.get_function_address("backward"))
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

    def run_forward(self, values: dict[str, int]) -> None:
        """Call the compiled forward pass with parameters by name."""
        _call(self._forward, self.code.forward, values)

    def run_backward(self, values: dict[str, int]) -> None:
        """Call the compiled backward pass with parameters by name."""
        _call(self._backward, self.code.backward, values)


def _call(function: Native, names: tuple[str, ...], values: dict[str, int]) -> None:
    parameters = (ctypes.c_int64 * len(names))(*(values.get(name, 0) for name in names))
    function(ctypes.addressof(parameters))
