"""The first-order linear recurrence v_t = c_t v_{t-1} + u_t over a whole sequence.

Shapes: B batch, T time, C channels, N blocks of K steps (N K >= T).
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cells.engines.choice import is_followed


def linear_scan(c: Tensor, u_BTC: Tensor, v_BC: Tensor) -> Tensor:
    """Return all v_t of v_t = c_t v_{t-1} + u_t, elementwise in rows and channels, for real or complex numbers.

    The sequence is cut into about sqrt(T) blocks. All blocks are scanned at once, then the ends of the blocks are
    carried forward. This launches about 2 sqrt(T) operations instead of T. None of them is a matrix product, because
    products may be computed in a lower precision than the recurrence tolerates. The backward pass is the same scan in
    reversed time and keeps only v. Under transforms of ``torch.func`` and in dispatch modes it is a loop over T.

    Args:
        c: Coefficients, with three dimensions that broadcast to those of ``u_BTC``.
        u_BTC: Inputs.
        v_BC: State before the first step.

    Returns:
        v_BTC. Its last step is the state after the sequence.
    """
    dtype = torch.promote_types(c.dtype, torch.promote_types(u_BTC.dtype, v_BC.dtype))
    c, u_BTC, v_BC = c.to(dtype), u_BTC.to(dtype), v_BC.to(dtype)
    if not torch.compiler.is_compiling() and is_followed():
        return _loop(c, u_BTC, v_BC)
    if not torch.is_grad_enabled():
        return _blocked(c.expand(-1, u_BTC.shape[1], -1), u_BTC, v_BC)  # plain operations, which exporters support
    return _LinearScan.apply(c, u_BTC, v_BC)  # type: ignore[no-any-return, no-untyped-call]  # torch's Function is untyped


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: Tensor, u_BTC: Tensor, v_BC: Tensor) -> Tensor:
        v_BTC = _blocked(c.expand(-1, u_BTC.shape[1], -1), u_BTC, v_BC)
        ctx.save_for_backward(c, v_BTC, v_BC)
        return v_BTC

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        c, v_BTC, v_BC = ctx.saved_tensors
        (dv_BTC,) = grads
        # du_t = dv_t + conj(c_{t+1}) du_{t+1}: the same recurrence, from the end to the start
        c_full = c.conj().resolve_conj().expand(-1, dv_BTC.shape[1], -1)
        later = torch.cat([torch.zeros_like(c_full[:, :1]), c_full[:, 1:].flip(1)], 1)
        du_BTC = linear_scan(later, dv_BTC.flip(1), torch.zeros_like(v_BC)).flip(1)
        dc = None
        if ctx.needs_input_grad[0]:
            before_BTC = torch.cat([v_BC[:, None], v_BTC[:, :-1]], 1)
            dc = (du_BTC * before_BTC.conj()).sum_to_size(c.shape)
        return dc, du_BTC, c_full[:, 0] * du_BTC[:, 0]


def _loop(c: Tensor, u_BTC: Tensor, v_BC: Tensor) -> Tensor:
    """Compute the recurrence step by step, without changes in place, which ``vmap`` does not allow."""
    steps = []
    for c_t, u_BC in zip(c.expand(-1, u_BTC.shape[1], -1).unbind(1), u_BTC.unbind(1), strict=True):
        v_BC = c_t * v_BC + u_BC
        steps.append(v_BC)
    return torch.stack(steps, 1)


def _blocked(c: Tensor, u_BTC: Tensor, v_BC: Tensor) -> Tensor:
    B, T, C = u_BTC.shape
    K = ceil(sqrt(T))
    N = ceil(T / K)
    v_BNKC = F.pad(u_BTC, (0, 0, 0, N * K - T)).reshape(B, N, K, C)  # F.pad copies even if it adds nothing
    c_BNKC = F.pad(c, (0, 0, 0, N * K - T)).reshape(c.shape[0], N, K, c.shape[2])
    decay_BNKC = c_BNKC.clone()  # becomes the product of c from the start of the block
    for k in range(1, K):
        v_BNKC[:, :, k].addcmul_(c_BNKC[:, :, k], v_BNKC[:, :, k - 1])
        decay_BNKC[:, :, k].mul_(decay_BNKC[:, :, k - 1])
    starts = [v_BC]
    for n in range(N - 1):
        starts.append(torch.addcmul(v_BNKC[:, n, -1], decay_BNKC[:, n, -1], starts[-1]))
    v_BNKC.addcmul_(decay_BNKC, torch.stack(starts, 1)[:, :, None])
    return v_BNKC.view(B, N * K, C)[:, :T].clone()  # a view, returned by _LinearScan, gets wrong gradients compiled
