"""Recurrent networks with a unitary recurrent weight of full capacity; complex numbers are pairs of real numbers.

Shapes: B batch, K steps of a chunk, H hidden_size = 2 N, N complex units (one gate block: G = H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cells.cores.modrelu import ModReLUCore
from cells.cores.orthogonal import draw_angles
from cells.cores.tanh import RNNState
from cells.driven import IdentityDriven
from cells.engines.bptt import Recurrence
from cells.engines.precision import no_autocast
from cells.validation import one_of


class ComplexModReLURecurrence(Recurrence):
    """h = (z / |z|) relu(|z| + b), for complex z = [real part, imaginary part]; the core's parameter is b."""

    def forward(
        self, z_KZB: Tensor, h_HB: Tensor, own: Sequence[Tensor], add_product: Callable[[int, Tensor], None]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        K, H, B = z_KZB.shape
        h_KHB = torch.empty_like(z_KZB)
        bias_N1 = own[0][:, None]
        spare_NB = h_HB.new_empty(H // 2, B)
        for t, (z_2NB, h_out_2NB) in enumerate(
            zip(z_KZB.view(K, 2, -1, B).unbind(0), h_KHB.view(K, 2, -1, B).unbind(0), strict=True)
        ):
            add_product(t, h_HB)
            torch.mul(z_2NB, _gain(z_2NB, bias_N1, spare_NB), out=h_out_2NB)
            h_HB = h_KHB[t]
        return h_KHB, (), ()

    def backward(
        self,
        kept: Sequence[Tensor],
        before_KHB: Tensor,
        dh: Sequence[Tensor],
        dlast: Sequence[Tensor | None],
        add_product: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z_KZB, _, bias_N = kept
        K, H, B = z_KZB.shape
        z_K2NB = z_KZB.view(K, 2, H // 2, B)
        size_KNB = torch.linalg.vector_norm(z_K2NB, dim=1)
        active_KNB = ((size_KNB + bias_N[:, None] > 0) & (size_KNB > 0)).to(z_KZB.dtype)
        # along e = z / |z| the gradient is unchanged, across it is multiplied by 1 + b / |z|
        size_KNB.masked_fill_(size_KNB == 0, 1)
        e_K2NB = z_K2NB / size_KNB[:, None]
        across_K1NB = (active_KNB * (1 + bias_N[:, None] / size_KNB))[:, None]
        more_K2NB = e_K2NB * (active_KNB[:, None] - across_K1NB)
        d_K2NB = torch.empty_like(z_K2NB)
        along_KNB = torch.empty_like(size_KNB)
        for t in reversed(range(K)):
            dh_2NB = dh[t + 1].view(2, -1, B)
            along_NB = torch.sum(e_K2NB[t] * dh_2NB, 0, out=along_KNB[t])
            torch.mul(dh_2NB, across_K1NB[t], out=d_K2NB[t]).addcmul_(more_K2NB[t], along_NB)
            add_product(t, d_K2NB[t].view(H, B))
        return d_K2NB.view(K, H, B), (along_KNB.mul_(active_KNB).sum((0, 2)),)


def _gain(z_2NB: Tensor, bias_N1: Tensor, out_NB: Tensor) -> Tensor:
    """Return relu(1 + b / |z|), by which modReLU multiplies z; the value at z = 0 is arbitrary."""
    torch.hypot(z_2NB[0], z_2NB[1], out=out_NB)
    out_NB.masked_fill_(out_NB == 0, 1)
    return torch.div(bias_N1, out_NB, out=out_NB).add_(1).relu_()


class UnitaryCore(ModReLUCore):
    """h_t = modReLU(v_t + U h_{t-1}) in complex numbers, U = exp(A), A = -A^*; modReLU(z) = (z / |z|) relu(|z| + b).

    h consists of the real parts of the N = H / 2 complex units, then of their imaginary parts; both are output. With
    U = P + i Q the recurrent weight is [[P, -Q], [Q, P]], of shape (H, H). The N^2 numbers of A reach every unitary
    matrix (full capacity).

    Parameters in addition to those of modReLU cells (one bias for each complex unit): ``skew`` (N, N), with the real
    parts of A below the diagonal, and the imaginary parts on and above it; its role for optimizers is ``orthogonal``.

    Args:
        skew_init: The initial A is i times a diagonal of angles s: ``henaff`` draws s ~ U(-pi, pi), ``cayley`` draws
            s = -tan(u/2) with u ~ U(0, pi/2), as for the orthogonal cells.
    """

    recurrence = ComplexModReLURecurrence
    roles: ClassVar[dict[str, str]] = {"skew": "orthogonal"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        skew_init: Literal["cayley", "henaff"] = "henaff",
        **core: Any,
    ) -> None:
        if isinstance(hidden_size, int) and hidden_size % 2:
            raise ValueError(
                f"hidden_size must be even (real and imaginary parts of the complex units), got {hidden_size}"
            )
        super().__init__(input_size, hidden_size, **core)
        self.skew_init = one_of("skew_init", skew_init, ("cayley", "henaff"))
        self.skew = nn.Parameter(torch.empty(self.units, self.units))
        self.reset_parameters()

    @property
    def units(self) -> int:
        return self.hidden_size // 2

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.skew.zero_()
        self.skew.diagonal().copy_(draw_angles(self.skew_init, self.skew.new_empty(self.units)))

    def recurrent_weight(self) -> Tensor:
        # in float32 the exponential of a large matrix deviates from a unitary one by 1e-5 and more
        with no_autocast(self.skew):
            skew_NN = self.skew.double()
            real_NN, imaginary_NN = skew_NN.tril(-1), skew_NN.triu()
            A_NN = torch.complex(real_NN - real_NN.mT, imaginary_NN + skew_NN.triu(1).mT)
            U_NN = torch.linalg.matrix_exp(A_NN)
            U_HH = torch.cat([torch.cat([U_NN.real, -U_NN.imag], 1), torch.cat([U_NN.imag, U_NN.real], 1)])
            return U_HH.to(self.skew.dtype)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        z_B2N = (v_BG + u_BG).view(-1, 2, self.units)
        size_BN = torch.linalg.vector_norm(z_B2N, dim=1)
        silent_BN = size_BN == 0
        gain_BN = torch.relu(1 + self.modrelu_bias / size_BN.masked_fill(silent_BN, 1)).masked_fill(silent_BN, 0)
        h_BH = (z_B2N * gain_BN[:, None]).flatten(1)
        return h_BH, RNNState(h_BH)


class UnitaryRNN(IdentityDriven, UnitaryCore):
    """h_t = modReLU(V x_t + U h_{t-1}), h complex, U = exp(A) unitary; the output is [Re h_t, Im h_t].

    Source: Wisdom, Powers, Hershey, Le Roux and Atlas, "Full-Capacity Unitary Recurrent Neural Networks", NIPS 2016.
    They move U itself on the unitary matrices. Here A is trained, which reaches the same matrices.
    """
