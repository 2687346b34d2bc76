"""Floating-point operations of a training step, for ``RUN/results.json``.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from app.diagnostics.probe import outermost_cells
from app.tasks import Task
from cells import Cell, flops
from datamodules import DataModule


def training_flops(task: Task, data: DataModule) -> dict[str, int] | None:
    """Return the operations of forward and backward pass of one optimizer step on one batch; None if not known.

    Counted are matrix products, a multiplication and an addition as one each: those of the cells by
    :func:`cells.flops`, and those of the rest of the task as torch counts them. Elementwise operations are not counted.
    The batch is the first of the validation data, scaled to ``batch_size`` sequences. The cells count as in
    float32 on any device, and sequences count with their padding.
    """
    if not task.supports_probing:
        return None
    with torch.random.fork_rng(devices=[]):
        batch = next(iter(data.val_dataloader()))
        twin = copy.deepcopy(task).cpu().float()
        seen: dict[str, tuple[int, int, bool]] = {}
        for name, cell in outermost_cells(twin).items():
            cell.forward = _without_products(name, cell, seen)  # type: ignore[method-assign]
        with torch.enable_grad(), torch.inference_mode(False):
            batch = {name: entry.clone().cpu() for name, entry in batch.items()}
            with FlopCounterMode(display=False) as forward:
                loss = twin.probe_loss(batch)
            with FlopCounterMode(display=False) as backward:
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
    counts = [forward.get_total_flops(), backward.get_total_flops()]
    for name, cell in outermost_cells(task).items():
        if name in seen:
            rows, steps, input_grad = seen[name]
            counts = [a + b for a, b in zip(counts, flops(cell, steps, rows, input_grad=input_grad), strict=True)]
    rows = len(batch["inputs"])
    scale = data.batch_size / rows
    return {"forward": round(counts[0] * scale), "backward": round(counts[1] * scale)}


def _without_products(
    name: str, cell: Cell, seen: dict[str, tuple[int, int, bool]]
) -> Callable[..., tuple[Tensor, Any]]:
    """Return a forward method that has no matrix products and records the size of its input."""

    def forward(x_BTI: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        rows, steps = x_BTI.shape[:2]
        seen[name] = rows, steps, x_BTI.requires_grad
        y_BTH = x_BTI.mean(-1, keepdim=True) + x_BTI.new_zeros(rows, steps, cell.hidden_size).requires_grad_()
        return y_BTH, cell.initial_state(rows) if state is None else state

    return forward
