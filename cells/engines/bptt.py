"""Back-propagation through time by hand: the engine for cells that no library kernel runs.

A sequence is cut into chunks that fit the processor's cache. In a chunk everything lies time-major and feature-first,
(K, G, B), so that the gates of a step are whole blocks of memory, and the loop works in place on the pre-activations:
one product with U and a few elementwise operations a step. For the backward pass the gates are kept, in the memory of
the pre-activations, and nothing else of their size. It first computes for the whole chunk the factors by which each
step multiplies its gradient, so that its loop, too, holds one product and a few operations a step; the gradient of U
is one product a chunk.

tanh is computed as 2 sig(2 x) - 1, three times as fast as torch.tanh on a processor; its error is that of rounding
numbers near 1 (2e-7 in float32). On a GPU the launches of the loop take longer than their work.

Shapes: B batch, K steps of a chunk, H hidden_size, G = gates x H, Z what a core keeps of a step (G; GRU: 4 H).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2**19  # numbers in the pre-activations of a chunk: 2 MB of float32, about what stays in the cache

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input  # (x, s, grad_input=d): d = x s (1 - s)
tanh_backward = torch.ops.aten.tanh_backward.grad_input  # (x, s, grad_input=d): d = x (1 - s^2)


class Recurrence(ABC):
    """A core over one chunk: its elementwise half, around the products with U."""

    def prepare(self, v_KGB: Tensor, bias_GB: Tensor | None) -> Tensor:
        """z_KZB, in memory of its own, to whose first G rows the products are added."""
        return v_KGB.clone() if bias_GB is None else v_KGB + bias_GB

    @abstractmethod
    def forward(
        self, z_KZB: Tensor, h_HB: Tensor, own: Sequence[Tensor], add_product: Callable[[int, Tensor], None]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """From z to the outputs.

        Args:
            z_KZB: Pre-activations; what the backward pass needs of them is left in their place.
            h_HB: h before the first step.
            own: The core's own tensors: the rest of its state, or its parameters.
            add_product: Called with t and h_{t-1}, it completes z_t.

        Returns:
            h_KHB, what else to keep for the backward pass, and the rest of the last state.
        """

    @abstractmethod
    def backward(
        self,
        kept: Sequence[Tensor],
        before_KHB: Tensor,
        dh: Sequence[Tensor],
        dlast: Sequence[Tensor | None],
        add_product: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From the gradients of the outputs to that of z.

        Args:
            kept: z_KZB, h_KHB and what else the forward pass kept, then the core's own tensors.
            before_KHB: h_{t-1} of every step.
            dh: The gradient of h_t is ``dh[t + 1]``, complete once the later steps are done.
            dlast: Gradients of the rest of the last state.
            add_product: Called with t and the gradient of z_t, it adds what passes by U to ``dh[t]``.

        Returns:
            d_KZB and the gradients of the core's own tensors.
        """

    def input_grad(self, d_KZB: Tensor) -> Tensor:
        """The gradient of v from that of z."""
        return d_KZB


class TanhRecurrence(Recurrence):
    """h = tanh(z)."""

    def forward(
        self, z_KZB: Tensor, h_HB: Tensor, own: Sequence[Tensor], add_product: Callable[[int, Tensor], None]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        minus_one = z_KZB.new_full((), -1.0)
        for t, z_HB in enumerate(z_KZB.unbind(0)):
            add_product(t, h_HB)
            h_HB = torch.add(minus_one, z_HB.add_(z_HB).sigmoid_(), alpha=2, out=z_HB)
        return z_KZB, (), ()

    def backward(
        self,
        kept: Sequence[Tensor],
        before_KHB: Tensor,
        dh: Sequence[Tensor],
        dlast: Sequence[Tensor | None],
        add_product: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        h_KHB = kept[0]
        d_KHB = torch.addcmul(h_KHB.new_ones(()), h_KHB, h_KHB, value=-1)
        for t, d_HB in reversed(list(enumerate(d_KHB.unbind(0)))):
            add_product(t, d_HB.mul_(dh[t + 1]))
        return d_KHB, ()


class ModReLURecurrence(Recurrence):
    """h = sign(z) relu(|z| + b); the core's own tensor is b."""

    def forward(
        self, z_KZB: Tensor, h_HB: Tensor, own: Sequence[Tensor], add_product: Callable[[int, Tensor], None]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        bias_H1 = own[0][:, None]
        spare_HB = torch.empty_like(z_KZB[0])
        for t, z_HB in enumerate(z_KZB.unbind(0)):
            add_product(t, h_HB)
            torch.abs(z_HB, out=spare_HB)
            h_HB = z_HB.sign_().mul_(spare_HB.add_(bias_H1).relu_())
        return z_KZB, (), ()

    def backward(
        self,
        kept: Sequence[Tensor],
        before_KHB: Tensor,
        dh: Sequence[Tensor],
        dlast: Sequence[Tensor | None],
        add_product: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        sign_KHB = kept[0].sign()  # of h, which is 0 where |z| + b was not above 0: nothing passes back there
        d_KHB = sign_KHB.abs()
        for t, d_HB in reversed(list(enumerate(d_KHB.unbind(0)))):
            add_product(t, d_HB.mul_(dh[t + 1]))
        return d_KHB, (sign_KHB.mul_(d_KHB).sum((0, 2)),)


class CellStateRecurrence(Recurrence):
    """z has four blocks, two gates, a candidate and o; c = next_state(..); h = sig(o) tanh(c). The own tensor is c."""

    @abstractmethod
    def next_state(
        self, first_HB: Tensor, second_HB: Tensor, candidate_HB: Tensor, c_HB: Tensor, out: Tensor
    ) -> Tensor:
        """c_t, in ``out``, from the gates, the candidate and c_{t-1}."""

    @abstractmethod
    def derivatives(self, blocks: Sequence[Tensor], before_KHB: Tensor, out: Sequence[Tensor]) -> Tensor:
        """The derivative of c_t by c_{t-1}, and in ``out`` those by what gates and candidate are made of.

        Args:
            blocks: The two gates and the candidate, each (K, H, B).
            before_KHB: c_{t-1} of every step.
            out: For each of them, where the derivative belongs.
        """

    def forward(
        self, z_KZB: Tensor, h_HB: Tensor, own: Sequence[Tensor], add_product: Callable[[int, Tensor], None]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        K, (H, B) = len(z_KZB), h_HB.shape
        h_KHB, c_KHB = h_HB.new_empty(2, K, H, B).unbind(0)
        c_HB = own[0]
        spare_HB = torch.empty_like(h_HB)
        minus_one, minus_two = z_KZB.new_full((), -1.0), z_KZB.new_full((), -2.0)
        blocks = z_KZB.view(4 * K, H, B).unbind(0)
        for t, (z_GB, h_out_HB, c_out_HB) in enumerate(zip(*map(Tensor.unbind, (z_KZB, h_KHB, c_KHB)), strict=True)):
            add_product(t, h_HB)
            first, second, candidate, o = blocks[4 * t : 4 * t + 4]
            candidate.add_(candidate)
            z_GB.sigmoid_()  # of all four blocks in one operation
            torch.add(minus_one, candidate, alpha=2, out=candidate)
            c_HB = self.next_state(first, second, candidate, c_HB, c_out_HB)
            torch.mul(c_HB, minus_two, out=spare_HB).sigmoid_()
            h_HB = torch.addcmul(o, o, spare_HB, value=-2, out=h_out_HB)  # tanh(c) = 1 - 2 sig(-2 c)
        return h_KHB, (c_KHB,), (c_HB.clone(),)

    def backward(
        self,
        kept: Sequence[Tensor],
        before_KHB: Tensor,
        dh: Sequence[Tensor],
        dlast: Sequence[Tensor | None],
        add_product: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z_KZB, _, c_KHB, c_HB = kept
        K, H, B = c_KHB.shape
        *inner, o = z_KZB.view(K, 4, H, B).unbind(1)
        d_K4HB = torch.empty_like(z_KZB).view(K, 4, H, B)
        *d_inner, d_o = d_K4HB.unbind(1)
        # with tanh(c) = s: dc_t gets o (1 - s^2) dh_t; the inner blocks are multiplied by dc_t and o by dh_t
        s_KHB = torch.add(c_KHB, c_KHB).sigmoid_().mul_(2).sub_(1)
        sigmoid_backward(s_KHB, o, grad_input=d_o)
        dc_by_dh = tanh_backward(o, s_KHB, grad_input=s_KHB).unbind(0)
        by_past = self.derivatives(inner, torch.cat([c_HB[None], c_KHB[:-1]]), d_inner).unbind(0)
        dc_HB = torch.zeros_like(c_HB) if dlast[0] is None else dlast[0].clone()
        d, by_c, by_h = d_K4HB.flatten(1, 2).unbind(0), d_K4HB[:, :3].unbind(0), d_o.unbind(0)
        for t in reversed(range(K)):
            dc_HB.addcmul_(dh[t + 1], dc_by_dh[t])
            by_c[t].mul_(dc_HB)
            by_h[t].mul_(dh[t + 1])
            dc_HB.mul_(by_past[t])
            add_product(t, d[t])
        return d_K4HB.view(K, 4 * H, B), (dc_HB,)


class LSTMRecurrence(CellStateRecurrence):
    """i, f, g, o = z; c = sig(f) c_{t-1} + sig(i) tanh(g); h = sig(o) tanh(c)."""

    def next_state(
        self, first_HB: Tensor, second_HB: Tensor, candidate_HB: Tensor, c_HB: Tensor, out: Tensor
    ) -> Tensor:
        return torch.mul(second_HB, c_HB, out=out).addcmul_(first_HB, candidate_HB)

    def derivatives(self, blocks: Sequence[Tensor], before_KHB: Tensor, out: Sequence[Tensor]) -> Tensor:
        i, f, g = blocks
        sigmoid_backward(g, i, grad_input=out[0])
        sigmoid_backward(before_KHB, f, grad_input=out[1])
        tanh_backward(i, g, grad_input=out[2])
        return f


class CandidateApartRecurrence(Recurrence):
    """A core whose last block, the candidate, takes U h apart from v.

    z_KZB holds a block more than v: the gates, the candidate's part of U h with its bias, and its v.

    Attributes:
        blocks: How many v has.
    """

    blocks: ClassVar[int]

    def prepare(self, v_KGB: Tensor, bias_GB: Tensor | None) -> Tensor:
        K, G, B = v_KGB.shape
        H = G // self.blocks
        z_KZB = v_KGB.new_empty(K, G + H, B)
        gates, u, v = torch.split(z_KZB, [G - H, H, H], 1)
        if bias_GB is None:
            gates.copy_(v_KGB[:, :-H])
            u.zero_()
        else:
            torch.add(v_KGB[:, :-H], bias_GB[:-H], out=gates)
            u.copy_(bias_GB[-H:])
        v.copy_(v_KGB[:, -H:])
        return z_KZB

    def input_grad(self, d_KZB: Tensor) -> Tensor:
        H = d_KZB.shape[1] // (self.blocks + 1)
        return torch.cat([d_KZB[:, : -2 * H], d_KZB[:, -H:]], 1)


class GRURecurrence(CandidateApartRecurrence):
    """r, z = sig(z_r, z_z); n = tanh(v_n + r u_n); h = (1 - z) n + z h_{t-1}.

    z_KZB holds four blocks: those of r, z and u_n, to which the products are added, and v_n.
    """

    blocks = 3

    def forward(
        self, z_KZB: Tensor, h_HB: Tensor, own: Sequence[Tensor], add_product: Callable[[int, Tensor], None]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        K, (H, B) = len(z_KZB), h_HB.shape
        h_KHB = h_HB.new_empty(K, H, B)
        minus_one = z_KZB.new_full((), -1.0)
        r, z, u, n = (block_KHB.unbind(0) for block_KHB in z_KZB.view(K, 4, H, B).unbind(1))
        rz = z_KZB[:, : 2 * H].unbind(0)
        for t, h_out_HB in enumerate(h_KHB.unbind(0)):
            add_product(t, h_HB)
            rz[t].sigmoid_()
            n_HB = n[t].addcmul_(r[t], u[t])
            torch.add(minus_one, n_HB.add_(n_HB).sigmoid_(), alpha=2, out=n_HB)
            h_HB = torch.lerp(n_HB, h_HB, z[t], out=h_out_HB)
        return h_KHB, (), ()

    def backward(
        self,
        kept: Sequence[Tensor],
        before_KHB: Tensor,
        dh: Sequence[Tensor],
        dlast: Sequence[Tensor | None],
        add_product: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z_KZB = kept[0]
        K, H, B = before_KHB.shape
        r, z, u, n = z_KZB.view(K, 4, H, B).unbind(1)
        d_K4HB = torch.empty_like(z_KZB).view(K, 4, H, B)
        d_r, d_z, d_u, d_n = d_K4HB.unbind(1)
        tanh_backward(1 - z, n, grad_input=d_n)
        torch.mul(d_n, r, out=d_u)
        sigmoid_backward(d_n * u, r, grad_input=d_r)
        sigmoid_backward(before_KHB - n, z, grad_input=d_z)
        by_u = d_K4HB[:, :3].flatten(1, 2).unbind(0)
        for t, (d_4HB, z_HB) in reversed(list(enumerate(zip(d_K4HB.unbind(0), z.unbind(0), strict=True)))):
            d_4HB.mul_(dh[t + 1])
            dh[t].addcmul_(dh[t + 1], z_HB)
            add_product(t, by_u[t])
        return d_K4HB.view(K, 4 * H, B), ()


def add_product(sum_MB: Tensor, weight_MN: Tensor, x_NB: Tensor) -> Tensor:
    """sum += weight x, in place; the product is in the dtype of ``weight_MN``, which may be lower."""
    if weight_MN.dtype == sum_MB.dtype:
        return sum_MB.addmm_(weight_MN, x_NB)
    return sum_MB.add_(weight_MN @ x_NB.to(weight_MN.dtype))


class Chunk(torch.autograd.Function):
    """(h_KHB, h_K, h_{K-1}, the rest of the last state) of a chunk.

    ``ahead_KB``, if given, are the c_t of a cell whose products are U (h_{t-1} + c_t (h_{t-1} - h_{t-2})).
    """

    @staticmethod
    def forward(
        ctx: Any,
        kind: type[Recurrence],
        v_KGB: Tensor,
        weight_GH: Tensor,
        bias_GB: Tensor | None,
        ahead_KB: Tensor | None,
        before_HB: Tensor | None,
        h_HB: Tensor,
        *own: Tensor,
    ) -> tuple[Tensor, ...]:
        K, G, _ = v_KGB.shape
        core = kind()
        z_KZB = core.prepare(v_KGB, bias_GB)
        into = z_KZB[:, :G].unbind(0)
        past_HB = before_HB
        ahead_HB = torch.empty_like(h_HB)

        def product(t: int, h_HB: Tensor) -> None:
            nonlocal past_HB
            if ahead_KB is None or past_HB is None:
                add_product(into[t], weight_GH, h_HB)
            else:
                add_product(into[t], weight_GH, torch.lerp(past_HB, h_HB, 1 + ahead_KB[t], out=ahead_HB))
                past_HB = h_HB

        h_KHB, kept, last = core.forward(z_KZB, h_HB, own, product)
        ctx.kind = kind
        ctx.bias_shape = None if bias_GB is None else bias_GB.shape
        ctx.save_for_backward(weight_GH, ahead_KB, before_HB, h_HB, z_KZB, h_KHB, *kept, *own)
        ctx.set_materialize_grads(False)
        return h_KHB, h_KHB[-1].clone(), (h_HB if K == 1 else h_KHB[-2]).clone(), *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        dy_KHB, dh_HB, dbefore_HB, *dlast = grads
        weight_GH, ahead_KB, before_HB, h_HB, *kept = ctx.saved_tensors
        core = ctx.kind()
        h_KHB = kept[1]
        (K, H, B), G = h_KHB.shape, len(weight_GH)
        dh_KHB = h_KHB.new_zeros(K + 2, H, B)  # of h_0, h_1, .., h_K, and at the end, dh[-1], of h_{-1}
        if dy_KHB is not None:  # it lies in memory batch first: see Joined
            dh_KHB[1 : K + 1].view(-1, B).copy_(dy_KHB.permute(2, 0, 1).contiguous().view(B, -1).t())
        if dh_HB is not None:
            dh_KHB[K] += dh_HB
        if dbefore_HB is not None:
            dh_KHB[K - 1] += dbefore_HB
        dh = dh_KHB.unbind(0)
        back_HG = weight_GH.t().contiguous()

        def product(t: int, d_GB: Tensor) -> None:
            if ahead_KB is None:
                add_product(dh[t], back_HG, d_GB)
            else:
                by_u_HB = back_HG @ d_GB.to(back_HG.dtype)
                dh[t].addcmul_(by_u_HB, 1 + ahead_KB[t])
                dh[t - 1].addcmul_(by_u_HB, ahead_KB[t], value=-1)

        past_KHB = torch.cat([h_HB[None], h_KHB[:-1]])
        d_KZB, down = core.backward(kept, past_KHB, dh, dlast, product)
        d_KGB = d_KZB[:, :G]
        if ahead_KB is not None:
            past_KHB = torch.lerp(torch.cat([before_HB[None], past_KHB[:-1]]), past_KHB, 1 + ahead_KB[:, None])
        d_and_past = d_KGB.to(weight_GH.dtype), past_KHB.transpose(1, 2).to(weight_GH.dtype)
        dweight_GH = torch.addbmm(torch.zeros_like(weight_GH), *d_and_past)
        dbias_GB = None if ctx.bias_shape is None else d_KGB.sum(0).sum_to_size(ctx.bias_shape)
        return (
            None,
            core.input_grad(d_KZB),
            dweight_GH,
            dbias_GB,
            None,
            None if ahead_KB is None else dh[-1],
            dh[0],
            *down,
        )


class Joined(torch.autograd.Function):
    """y_BTH from the h_KHB of all chunks, whose memory may be what their backward passes keep.

    It spares the copies that torch.cat would need, batch first, beside its result.
    """

    @staticmethod
    def forward(ctx: Any, *chunks_KHB: Tensor) -> Tensor:
        ctx.steps = [len(h_KHB) for h_KHB in chunks_KHB]
        _, H, B = chunks_KHB[0].shape
        y_BTH = chunks_KHB[0].new_empty(B, sum(ctx.steps), H)
        for h_KHB, y_BKH in zip(chunks_KHB, torch.split(y_BTH, ctx.steps, 1), strict=True):
            y_BKH.copy_(h_KHB.view(-1, B).t().contiguous().view(B, -1, H))  # as a matrix: torch's fast transposition
        return y_BTH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BTH: Tensor) -> tuple[Tensor, ...]:
        return tuple(dy_BKH.permute(1, 2, 0) for dy_BKH in torch.split(dy_BTH, ctx.steps, 1))


class Unrolled:
    """The chunks of one sequence, each going on from the state that the last one left.

    Args:
        kind: The core.
        weight_GH: U, in the dtype that products are computed in.
        state: The core's state, batch first.
        parameters: The core's own parameters.
    """

    def __init__(
        self, kind: type[Recurrence], weight_GH: Tensor, state: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> None:
        self.kind = kind
        self.weight_GH = weight_GH
        self.h_HB, *self.rest = (leaf.t().contiguous() for leaf in state)
        self.parameters = parameters
        self.before_HB: Tensor | None = None
        self.outputs: list[Tensor] = []

    def go_on(self, v_KGB: Tensor, bias_GB: Tensor | None, ahead_KB: Tensor | None = None) -> None:
        """Run one more chunk. See :class:`Chunk` for ``ahead_KB``."""
        if ahead_KB is not None and self.before_HB is None:
            self.before_HB = torch.zeros_like(self.h_HB)
        own = *self.rest, *self.parameters
        h_KHB, self.h_HB, self.before_HB, *self.rest = Chunk.apply(  # type: ignore[no-untyped-call]  # torch's Function is untyped
            self.kind, v_KGB, self.weight_GH, bias_GB, ahead_KB, self.before_HB, self.h_HB, *own
        )
        self.outputs.append(h_KHB)

    def before_last(self) -> Tensor:
        """h before the last step, of shape (B, H)."""
        assert self.before_HB is not None
        return self.before_HB.t()

    def result(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All outputs y_BTH and the core's last state, batch first."""
        y_BTH = Joined.apply(*self.outputs)  # type: ignore[no-untyped-call]  # torch's Function is untyped
        return y_BTH, tuple(leaf.t().contiguous() for leaf in (self.h_HB, *self.rest))


def chunk_steps(rows: int, gates: int) -> int:
    """The number of steps of a chunk with ``rows`` rows and ``gates`` pre-activations each."""
    return max(1, CHUNK // (rows * gates))


def gate_product(x_BKD: Tensor, weight_GD: Tensor, bias_G: Tensor | None) -> Tensor:
    """weight x + bias as (K, G, B), time-major and feature-first."""
    if bias_G is not None:
        x_BKD = torch.cat([x_BKD, x_BKD.new_ones(*x_BKD.shape[:-1], 1)], -1)
        weight_GD = torch.cat([weight_GD, bias_G[:, None]], 1)
    B, K, D = x_BKD.shape
    x_KDB = x_BKD.reshape(B, K * D).t().contiguous().view(K, D, B)
    return torch.bmm(weight_GD.expand(K, -1, -1), x_KDB)
