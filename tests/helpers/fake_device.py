"""Run cells on a device that exists in name only: ``python -m helpers.fake_device [NAME ..]``.

Fake tensors have shapes, dtypes and devices but no numbers. A step that mixes devices fails here as it would on a GPU.
The device is one of torch's for backends outside of torch. It is registered for the whole process, so tests run this
module as a separate process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from cells import Cell, find_cell
from cells.engines.fused import NotFusable

DEVICE = "npy"


def ways(cell: Cell) -> Iterator[str]:
    """Yield the engines that a cell has on a GPU."""
    yield "loop"
    if cell.library and cell.kernel is not torch.gru:  # torch.gru does not run on fake tensors
        yield "run_library"
    yield "run_fused"


def run(name: str) -> None:
    """Compute two windows of a sequence and their gradients with each engine."""
    with torch.device(DEVICE):
        cell = find_cell(name)(2, 4)
    for way in ways(cell):
        x_BTI = torch.empty(3, 5, 2, device=DEVICE, requires_grad=True)
        try:
            _, state = getattr(cell, way)(x_BTI, cell.initial_state(3))
        except NotFusable:
            print(name, way, "cannot be fused")
            continue
        y_BTH, _ = getattr(cell, way)(x_BTI, state)
        gradients = torch.autograd.grad(y_BTH.sum(), [x_BTI, *cell.parameters()], allow_unused=True)
        assert {gradient.device.type for gradient in gradients if gradient is not None} == {DEVICE}, (name, way)
        print(name, way, "passed")


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend(DEVICE)
    with FakeTensorMode(allow_non_fake_inputs=False):
        for each in sys.argv[1:]:
            run(each)
