"""Recurrent networks with an orthogonal recurrent weight, over every drive.

The map from skew-symmetric matrices to orthogonal ones, and its base, are geotorch's ``SO``, by the author of the
method. It was taken rather than torch's own ``parametrizations.orthogonal`` because that stores H^2 numbers of which
H(H-1)/2 act, cannot be started from a skew-symmetric matrix, projects by itself whenever the base is assigned, and
comes only as a parametrisation, which gives the module a class of its own that cannot be pickled. ``SO`` is used as
the plain module that it is.

Shapes: B batch, H hidden_size (one gate block: G = H).
"""

from __future__ import annotations

from abc import abstractmethod
from math import pi
from typing import Any, ClassVar, Literal

import torch
from geotorch import SO
from torch import Tensor, nn

from cells.bptt import ModReLURecurrence
from cells.driven import AdamDriven, DrivenCell, IdentityDriven, MomentumDriven, RMSPropDriven, SRDriven
from cells.drives import Drive
from cells.engines import no_autocast
from cells.rnn import RNNState
from cells.validation import one_of, positive_int


def modrelu(z_BH: Tensor, bias_H: Tensor) -> Tensor:
    """sign(z) relu(|z| + b). It jumps at z = 0 where b is positive (Arjovsky, Shah and Bengio 2016)."""
    return z_BH.sign() * torch.relu(z_BH.abs() + bias_H)


class OrthogonalCore(DrivenCell):
    """h_t = modReLU(v_t + U h_{t-1}), U = B map(A), A skew-symmetric; no biases but the modReLU's.

    Parameters: ``weight_ih`` W of shape (H, I), Kaiming normal; ``modrelu_bias`` (H,), uniform in +-0.01; ``skew``, the
    H(H-1)/2 entries of A below its diagonal, in rows, whose role for optimisers is ``orthogonal``. Buffer: the base B,
    here the identity (static trivialisation).

    Args:
        skew_init: A is made of 2 x 2 blocks [[0, s], [-s, 0]]: ``cayley`` draws s = -tan(u/2), u ~ U(0, pi/2) (Helfrich
            et al. 2018), ``henaff`` draws s ~ U(-pi, pi) (Henaff et al. 2016).
    """

    gates = 1
    gate_names = ("U",)
    recurrence = ModReLURecurrence
    trivialization: ClassVar[str]
    roles: ClassVar[dict[str, str]] = {"skew": "orthogonal"}

    @abstractmethod
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        drive: Drive,
        skew_init: Literal["cayley", "henaff"] = "cayley",
        **driven: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, drive=drive, **driven)
        H = self.hidden_size
        self.skew_init = one_of("skew_init", skew_init, ("cayley", "henaff"))
        self.skew = nn.Parameter(torch.empty(H * (H - 1) // 2))
        self.modrelu_bias = nn.Parameter(torch.empty(H))
        self.manifold = SO((H, H), triv=self.trivialization)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, at the identity as base."""
        nn.init.kaiming_normal_(self.weight_ih, nonlinearity="relu")
        nn.init.uniform_(self.modrelu_bias, -0.01, 0.01)
        nn.init.eye_(self.manifold.base)
        blocks = self.skew.new_empty(self.hidden_size // 2)
        if self.skew_init == "cayley":
            blocks.uniform_(0, pi / 2).div_(2).tan_().neg_()
        else:
            blocks.uniform_(-pi, pi)
        rows = torch.arange(1, self.hidden_size, 2, device=self.skew.device)
        self.skew.zero_()
        self.skew[rows * (rows - 1) // 2 + rows - 1] = -blocks  # A[row, row - 1], the last entry of its row

    def recurrent_weight(self) -> Tensor:
        rows, columns = torch.tril_indices(self.hidden_size, self.hidden_size, -1, device=self.skew.device)
        with no_autocast(self.skew):
            A_HH = self.skew.new_zeros(self.hidden_size, self.hidden_size)
            weight_HH: Tensor = self.manifold(A_HH.index_put((rows, columns), self.skew))
        return weight_HH

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """In full precision always: rounding near the jump of modReLU at 0 becomes errors in gradients of any size."""
        with no_autocast(x):
            return super().linear(x.to(weight.dtype), weight, bias)

    def product_dtype(self) -> torch.dtype:
        return self.weight_ih.dtype

    def own_parameters(self) -> tuple[Tensor, ...]:
        return (self.modrelu_bias,)

    def initial_core_state(self, zeros_BH: Tensor) -> RNNState:
        return RNNState(zeros_BH)

    def core_step(self, v_BG: Tensor, u_BG: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        h_BH = modrelu(v_BG + u_BG, self.modrelu_bias)
        return h_BH, RNNState(h_BH)


class DTRIVCore(OrthogonalCore):
    """h_t = modReLU(v_t + U h_{t-1}), U = B exp(A), with the base B moved to U every few optimiser steps.

    At the start B = exp(A) of the initial A, and A = 0. To rebase is to set B = U, A = 0: U stays what it is, and its
    gradient is again that of the exponential map at 0. The optimiser's own averages are left as they are, although
    they belong to the old base; the public code of expRNN does the same.

    Steps must be told: ``follow_optimizer(model, optimizer)`` once, or ``after_optimizer_step()`` after each step. A
    cell that is told nothing never rebases. The count is of optimiser steps, not of forward passes, so accumulated
    gradients all belong to one base. The base and both counts are buffers, so a resumed run rebases where the
    undisturbed one would.

    Source: Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds", NeurIPS 2019.

    Args:
        rebase_every: K, the number of optimiser steps after which the base is moved; None: never again after the start
            ("infty" in the public code).
        project_every: M, the number of rebases after which the base is projected on the orthogonal matrices, against
            the rounding that adds up in it.
    """

    trivialization = "expm"
    steps: Tensor
    rebases: Tensor

    @abstractmethod
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        drive: Drive,
        rebase_every: int | None = 100,
        project_every: int = 100,
        **orthogonal: Any,
    ) -> None:
        self.rebase_every = None if rebase_every is None else positive_int("rebase_every", rebase_every)
        self.project_every = positive_int("project_every", project_every)
        super().__init__(input_size, hidden_size, drive=drive, **orthogonal)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._move_base()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=self.skew.device))
        self.register_buffer("rebases", torch.zeros((), dtype=torch.int64, device=self.skew.device))

    def after_optimizer_step(self) -> None:
        """Count an optimiser step, and rebase if it is the one."""
        self.steps += 1
        if self.rebase_every is None or int(self.steps) % self.rebase_every:
            return
        self._move_base()
        self.rebases += 1
        if int(self.rebases) % self.project_every == 0:
            left_HH, _, right_HH = torch.linalg.svd(self.manifold.base)
            self.manifold.base.copy_(left_HH @ right_HH)

    @torch.no_grad()
    def _move_base(self) -> None:
        self.manifold.base.copy_(self.recurrent_weight())
        self.skew.zero_()


class ExpRNN(IdentityDriven, OrthogonalCore):
    """h_t = modReLU(W x_t + U h_{t-1}), U = exp(A).

    Source: Lezcano-Casado and Martinez-Rubio, "Cheap Orthogonal Constraints in Neural Networks", ICML 2019.
    """

    trivialization = "expm"


class CayleyRNN(IdentityDriven, OrthogonalCore):
    """h_t = modReLU(W x_t + U h_{t-1}), U = (I + A/2) (I - A/2)^-1.

    Source: Helfrich, Willmott and Ye, "Orthogonal Recurrent Neural Networks with Scaled Cayley Transform", ICML 2018,
    without its scaling matrix; its A is half of this one.
    """

    trivialization = "cayley"


class DTRIV(IdentityDriven, DTRIVCore):
    """h_t = modReLU(W x_t + U h_{t-1}), U = B exp(A), B rebased.

    Source: Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds", NeurIPS 2019.
    """


class MomentumDTRIV(MomentumDriven, DTRIVCore):
    """h_t = modReLU(v_t + U h_{t-1}), v_t = mu v_{t-1} + s W x_t, U = B exp(A), B rebased.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class SRDTRIV(SRDriven, DTRIVCore):
    """h_t = modReLU(v_t + U h_{t-1}), v_t = (k-1)/(k+2) v_{t-1} + s W x_t, k = 1, .., F, 1, .., U = B exp(A).

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class RMSPropDTRIV(RMSPropDriven, DTRIVCore):
    """h_t = modReLU(v_t + U h_{t-1}), v_t = s a_t / sqrt(m_t + delta), a_t = W x_t.

    m_t = beta m_{t-1} + (1-beta) a_t^2.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class AdamDTRIV(AdamDriven, DTRIVCore):
    """h_t = modReLU(v_t + U h_{t-1}), v_t = p_t / sqrt(m_t + delta), p_t = mu p_{t-1} + s a_t, a_t = W x_t.

    m_t = beta m_{t-1} + (1-beta) a_t^2.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """
