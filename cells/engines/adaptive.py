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
    step_size: float | Tensor,
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
        step_size: s, a number, or a tensor that broadcasts to the channels.
        beta: Decay of the average of squares.
        delta: What is added to the average.
        delta_in_root: Whether delta stands inside the root; otherwise v_t = p_t / (sqrt(m_t) + delta).

    Returns:
        v_BTC, in memory like ``a_BTC``, and the last p (None without momentum) and m.
    """
    learned = isinstance(step_size, Tensor)
    scale = 1.0 if learned else step_size
    p_in_s_BC = None if p_BC is None else p_BC / step_size
    v_BTC, *last = _Adaptive.apply(  # type: ignore[no-untyped-call]  # torch's Function is untyped
        a_BTC, p_in_s_BC, m_BC, momentum_11C, scale, beta, delta, delta_in_root
    )
    return v_BTC * step_size if learned else v_BTC, None if p_BC is None else last[0] * step_size, last[-1]


class _Adaptive(torch.autograd.Function):
    """v_t = s p_t / sqrt(m_t + delta) with p in units of s, p_t = momentum p_{t-1} + a_t, which saves an operation."""

    @staticmethod
    def forward(
        ctx: Any,
        a_BTC: Tensor,
        p_BC: Tensor | None,
        m_BC: Tensor,
        momentum_11C: Tensor | None,
        s: float,
        beta: float,
        delta: float,
        delta_in_root: bool,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(a_BTC, p_BC, m_BC, momentum_11C)
        ctx.numbers = s, beta, delta, delta_in_root
        v_BTC = torch.empty_like(a_BTC)
        m_BC = _like(a_BTC, m_BC)
        p_BC = None if p_BC is None else _like(a_BTC, p_BC)
        r_BC = torch.empty_like(a_BTC[:, 0])
        mu, zero = None if momentum_11C is None else momentum_11C[0], a_BTC.new_zeros(())
        average = _Average(a_BTC, beta, delta, delta_in_root)
        for a_BC, v_BC in zip(a_BTC.unbind(1), v_BTC.unbind(1), strict=True):
            average.step(m_BC, a_BC, r_BC)
            if p_BC is not None and mu is not None:
                torch.addcmul(a_BC, p_BC, mu, out=p_BC)
            torch.addcmul(zero, a_BC if p_BC is None else p_BC, r_BC, value=s, out=v_BC)
        return v_BTC, *([] if p_BC is None else [p_BC]), m_BC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dv_BTC: Tensor, *dlast: Tensor) -> tuple[Tensor | None, ...]:
        a_BTC, p_BC, m_BC, momentum_11C = ctx.saved_tensors
        s, beta, delta, delta_in_root = ctx.numbers
        r_BTC, da_BTC = torch.empty_like(a_BTC), torch.empty_like(a_BTC)
        root_BTC = r_BTC if delta_in_root else torch.empty_like(a_BTC)
        a, dv, r, root, da = (x.unbind(1) for x in (a_BTC, dv_BTC, r_BTC, root_BTC, da_BTC))
        p = a if p_BC is None else da  # p lies where da takes its place
        m_now_BC = _like(a_BTC, m_BC)
        mu, zero = None if momentum_11C is None else momentum_11C[0], a_BTC.new_zeros(())
        average = _Average(a_BTC, beta, delta, delta_in_root)
        for t, a_BC in enumerate(a):
            if mu is not None:
                torch.addcmul(a_BC, p[t - 1] if t > 0 else p_BC, mu, out=p[t])
            average.step(m_now_BC, a_BC, r[t])
            if not delta_in_root:
                torch.sqrt(m_now_BC, out=root[t])

        # with v = s p r: dp_t = s r dv_t + mu dp_{t+1}; dm_t = -q_t / 2, q_t = -2 s (dr/dm) p dv_t + beta q_{t+1}
        dp_BC = torch.empty_like(m_now_BC) if mu is None else _like(a_BTC, dlast[0])
        q_BC = _like(a_BTC, dlast[-1]).mul_(-2)
        dmomentum_BC = torch.zeros_like(m_now_BC)
        spare_BC = torch.empty_like(m_now_BC)
        for t in reversed(range(len(a))):
            later = t < len(a) - 1
            by_v_BC = dp_BC if mu is None else spare_BC
            torch.addcmul(zero, r[t], dv[t], value=s, out=by_v_BC)
            if mu is not None:
                dp_BC = torch.addcmul(by_v_BC, dp_BC, mu, out=dp_BC) if later else dp_BC.add_(by_v_BC)
            # p r dv comes first: the powers of r alone may overflow
            torch.mul(by_v_BC, p[t], out=spare_BC).mul_(r[t])
            if later:
                q_BC.mul_(average.beta)
            if delta_in_root:
                q_BC.addcmul_(spare_BC, r[t])
            else:  # where m is 0 its root has no derivative, and a, which is 0, needs none
                q_BC.add_(spare_BC.div_(root[t]).masked_fill_(root[t] == 0, 0.0))
            if ctx.needs_input_grad[3]:
                dmomentum_BC.addcmul_(dp_BC, p[t - 1] if t > 0 else p_BC)
            torch.addcmul(dp_BC, a[t], q_BC, value=beta - 1, out=da[t])
        dp_first = None if mu is None else dp_BC * mu
        dmomentum = dmomentum_BC[None].sum_to_size(momentum_11C.shape) if ctx.needs_input_grad[3] else None
        return da_BTC, dp_first, q_BC * (-beta / 2), dmomentum, None, None, None, None


class _Average:
    """m and r; with numbers as tensors where torch would make one of a Python number anew in every operation."""

    def __init__(self, like: Tensor, beta: float, delta: float, delta_in_root: bool) -> None:
        self.beta, self.delta = like.new_full((), beta), like.new_full((), delta)
        self.share = 1 - beta
        self.delta_in_root = delta_in_root

    def step(self, m_BC: Tensor, a_BC: Tensor, r_BC: Tensor) -> None:
        """Make m_{t-1} m_t, and r the factor by which it divides."""
        m_BC.mul_(self.beta).addcmul_(a_BC, a_BC, value=self.share)
        if self.delta_in_root:
            torch.add(m_BC, self.delta, out=r_BC).rsqrt_()
        else:
            torch.sqrt(m_BC, out=r_BC).add_(self.delta).reciprocal_()


def _like(a_BTC: Tensor, x_BC: Tensor) -> Tensor:
    """A copy of x that lies in memory as one step of a does: mixed orders are slow."""
    return torch.empty_like(a_BTC[:, 0]).copy_(x_BC)
