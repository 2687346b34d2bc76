"""Recurrent networks with a unitary recurrent weight of full capacity; complex numbers are pairs of real numbers.

Shapes: B batch, H hidden_size = 2 N, N complex units (one gate block: G = H).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cells.cores.modrelu import ModReLUCore
from cells.cores.orthogonal import draw_angles
from cells.cores.tanh import RNNState
from cells.driven import IdentityDriven
from cells.engines.precision import no_autocast
from cells.validation import one_of


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
