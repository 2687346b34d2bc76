"""The drives that divide by the recent size of their input, RMSProp and Adam, over a whole sequence.

They run on the gates, so they decide how much memory a cell takes. The backward pass keeps only the input and computes
the averages anew; both passes go step by step, in buffers that stay in the cache.

Shapes: B batch, T time, C channels; 11C either (1, 1, 1) or (1, 1, C).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def adaptive(
    a_BTC: Tensor,
    p_BC: Tensor | None,
    m_BC: Tensor,
    momentum_11C: Tensor | None,
    step_size_11C: Tensor,
    beta: float,
    delta: float,
    delta_in_root: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """v_t = p_t / sqrt(m_t + delta), p_t = momentum p_{t-1} + step_size a_t, m_t = beta m_{t-1} + (1-beta) a_t^2.

    Args:
        a_BTC: Inputs.
        p_BC: p before the first step; None: there is no momentum, p_t = step_size a_t.
        m_BC: m before the first step.
        momentum_11C: mu; None as ``p_BC``.
        step_size_11C: s.
        beta: Decay of the average of squares.
        delta: What is added to the average.
        delta_in_root: Whether delta stands inside the root; otherwise v_t = p_t / (sqrt(m_t) + delta).

    Returns:
        v_BTC, in memory like ``a_BTC``, and the last p (None without momentum) and m.
    """
    v_BTC, *last = _Adaptive.apply(  # type: ignore[no-untyped-call]  # torch's Function is untyped
        a_BTC, p_BC, m_BC, momentum_11C, step_size_11C, beta, delta, delta_in_root
    )
    return v_BTC, None if p_BC is None else last[0], last[-1]


class _Adaptive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a_BTC: Tensor,
        p_BC: Tensor | None,
        m_BC: Tensor,
        momentum_11C: Tensor | None,
        step_size_11C: Tensor,
        beta: float,
        delta: float,
        delta_in_root: bool,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(a_BTC, p_BC, m_BC, momentum_11C, step_size_11C)
        ctx.numbers = beta, delta, delta_in_root
        v_BTC = torch.empty_like(a_BTC)
        m_BC = _like(a_BTC, m_BC)
        p_BC = None if p_BC is None else _like(a_BTC, p_BC)
        r_BC = torch.empty_like(a_BTC[:, 0])
        mu, s = None if momentum_11C is None else momentum_11C[0], step_size_11C[0]
        for a_BC, v_BC in zip(a_BTC.unbind(1), v_BTC.unbind(1), strict=True):
            _average(m_BC, a_BC, beta, delta, delta_in_root, r_BC)
            if p_BC is None or mu is None:
                torch.mul(a_BC, s, out=v_BC).mul_(r_BC)
            else:
                p_BC.mul_(mu).addcmul_(a_BC, s)
                torch.mul(p_BC, r_BC, out=v_BC)
        return v_BTC, *([] if p_BC is None else [p_BC]), m_BC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dv_BTC: Tensor, *dlast: Tensor) -> tuple[Tensor | None, ...]:
        a_BTC, p_BC, m_BC, momentum_11C, step_size_11C = ctx.saved_tensors
        beta, delta, delta_in_root = ctx.numbers
        p_BTC, r_BTC, da_BTC = (torch.empty_like(a_BTC) for _ in range(3))
        root_BTC = r_BTC if delta_in_root else torch.empty_like(a_BTC)
        a, dv, p, r, root, da = (x.unbind(1) for x in (a_BTC, dv_BTC, p_BTC, r_BTC, root_BTC, da_BTC))
        m_now_BC, p_now_BC = _like(a_BTC, m_BC), p_BC
        mu, s = step_size_11C.new_zeros(1) if momentum_11C is None else momentum_11C[0], step_size_11C[0]
        for t, a_BC in enumerate(a):
            torch.mul(a_BC, s, out=p[t])
            if p_now_BC is not None:
                p_now_BC = p[t].addcmul_(p_now_BC, mu)
            _average(m_now_BC, a_BC, beta, delta, delta_in_root, r[t])
            if not delta_in_root:
                torch.sqrt(m_now_BC, out=root[t])

        # with v = p r: dp_t = r dv_t + mu dp_{t+1}; dm_t = -q_t / 2, q_t = -2 (dr/dm) p dv_t + beta q_{t+1}
        dp_BC = torch.zeros_like(m_now_BC) if p_BC is None else _like(a_BTC, dlast[0])
        q_BC = _like(a_BTC, dlast[-1]).mul_(-2)
        dmomentum_BC, dstep_size_BC = torch.zeros_like(m_now_BC), torch.zeros_like(m_now_BC)
        spare_BC = torch.empty_like(m_now_BC)
        for t in reversed(range(len(a))):
            if t < len(a) - 1:
                q_BC.mul_(beta)
                dp_BC.mul_(mu)
            torch.mul(r[t], dv[t], out=spare_BC)
            dp_BC.add_(spare_BC)
            spare_BC.mul_(p[t]).mul_(r[t])  # p r dv comes first: the powers of r alone may overflow
            if delta_in_root:
                q_BC.addcmul_(spare_BC, r[t])
            else:  # where m is 0 its root has no derivative, and a, which is 0, needs none
                q_BC.add_(spare_BC.div_(root[t]).masked_fill_(root[t] == 0, 0.0))
            torch.mul(dp_BC, s, out=da[t]).addcmul_(a[t], q_BC, value=beta - 1)
            if ctx.needs_input_grad[3]:
                dmomentum_BC.addcmul_(dp_BC, p[t - 1] if t > 0 else p_BC)
            if ctx.needs_input_grad[4]:
                dstep_size_BC.addcmul_(dp_BC, a[t])
        dp_first = None if p_BC is None else dp_BC * mu
        dmomentum = dmomentum_BC[None].sum_to_size(momentum_11C.shape) if ctx.needs_input_grad[3] else None
        dstep_size = dstep_size_BC[None].sum_to_size(step_size_11C.shape) if ctx.needs_input_grad[4] else None
        return da_BTC, dp_first, q_BC * (-beta / 2), dmomentum, dstep_size, None, None, None


def _average(m_BC: Tensor, a_BC: Tensor, beta: float, delta: float, delta_in_root: bool, r_BC: Tensor) -> None:
    """Make m_{t-1} m_t, and r the factor by which it divides."""
    m_BC.mul_(beta).addcmul_(a_BC, a_BC, value=1 - beta)
    if delta_in_root:
        torch.add(m_BC, delta, out=r_BC).rsqrt_()
    else:
        torch.sqrt(m_BC, out=r_BC).add_(delta).reciprocal_()


def _like(a_BTC: Tensor, x_BC: Tensor) -> Tensor:
    """A copy of x that lies in memory as one step of a does: mixed orders are slow."""
    return torch.empty_like(a_BTC[:, 0]).copy_(x_BC)
