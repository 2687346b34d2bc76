"""The drives that divide by the recent size of their input, RMSProp and Adam, over a whole sequence.

They run on the gates, so they decide how much memory a cell takes. The backward pass keeps only the input and computes
the averages anew; both passes work in place on few buffers, whatever the order of the dimensions in memory is.

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
        p_BTC, m_BTC = _moments(a_BTC, p_BC, m_BC, momentum_11C, step_size_11C, beta)
        last = [m_BTC[:, -1].clone()] if p_BC is None else [p_BTC[:, -1].clone(), m_BTC[:, -1].clone()]
        v_BTC = p_BTC.mul_(m_BTC.add_(delta).rsqrt_()) if delta_in_root else p_BTC.div_(m_BTC.sqrt_().add_(delta))
        return v_BTC, *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dv_BTC: Tensor, *dlast: Tensor) -> tuple[Tensor | None, ...]:
        a_BTC, p_BC, m_BC, momentum_11C, step_size_11C = ctx.saved_tensors
        beta, delta, delta_in_root = ctx.numbers
        p_BTC, m_BTC = _moments(a_BTC, p_BC, m_BC, momentum_11C, step_size_11C, beta)
        # with v = p r: dp_t = r dv_t + mu dp_{t+1}; dm_t = -q_t / 2, q_t = -2 (dr/dm) p dv_t + beta q_{t+1};
        # the product p r dv comes first: the powers of r alone may overflow
        if delta_in_root:
            r_BTC = m_BTC.add_(delta).rsqrt_()
            dp_BTC = r_BTC * dv_BTC
            q_BTC = (p_BTC * dp_BTC).mul_(r_BTC).mul_(r_BTC)
        else:
            root_BTC = m_BTC.sqrt_()
            r_BTC = (root_BTC + delta).reciprocal_()
            dp_BTC = r_BTC * dv_BTC
            q_BTC = (p_BTC * dp_BTC).mul_(r_BTC).div_(root_BTC)
            q_BTC.masked_fill_(root_BTC == 0, 0.0)  # the root has no derivative there, and a, which is 0, needs none
        q_BTC[:, -1].sub_(dlast[-1], alpha=2)
        if momentum_11C is not None:
            dp_BTC[:, -1].add_(dlast[0])
            _scan_back(dp_BTC, momentum_11C[0])
        _scan_back(q_BTC, step_size_11C.new_tensor(beta))
        da_BTC = (dp_BTC * step_size_11C).addcmul_(a_BTC, q_BTC, value=beta - 1)
        dp_first = dmomentum = dstep_size = None
        if momentum_11C is not None and p_BC is not None:
            dp_first = dp_BTC[:, 0] * momentum_11C[0]
            if ctx.needs_input_grad[3]:
                before_BTC = torch.cat([p_BC[:, None], p_BTC[:, :-1]], 1)
                dmomentum = (dp_BTC * before_BTC).sum_to_size(momentum_11C.shape)
        if ctx.needs_input_grad[4]:
            dstep_size = (dp_BTC * a_BTC).sum_to_size(step_size_11C.shape)
        return da_BTC, dp_first, q_BTC[:, 0] * (-beta / 2), dmomentum, dstep_size, None, None, None


def _moments(
    a_BTC: Tensor, p_BC: Tensor | None, m_BC: Tensor, momentum_11C: Tensor | None, step_size_11C: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """All p_t and m_t."""
    p_BTC = a_BTC * step_size_11C
    if p_BC is not None and momentum_11C is not None:
        for p_next_BC in p_BTC.unbind(1):
            p_BC = p_next_BC.addcmul_(p_BC, momentum_11C[0])
    m_BTC = (a_BTC * a_BTC).mul_(1 - beta)
    for m_next_BC in m_BTC.unbind(1):
        m_BC = m_next_BC.add_(m_BC, alpha=beta)
    return p_BTC, m_BTC


def _scan_back(d_BTC: Tensor, coefficient: Tensor) -> None:
    """d_t += coefficient d_{t+1}, from the end, in place."""
    later_BC: Tensor | None = None
    for d_BC in reversed(d_BTC.unbind(1)):
        later_BC = d_BC if later_BC is None else d_BC.addcmul_(later_BC, coefficient)
