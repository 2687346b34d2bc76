"""Recurrent networks with an orthogonal recurrent weight, with every drive.

The map from skew-symmetric to orthogonal matrices, and its base, are geotorch's ``SO``, by the author of the method,
used as a plain module. torch's own ``parametrizations.orthogonal`` does not fit: it stores H^2 numbers of which only
H(H-1)/2 have an effect, it cannot be initialized from a skew-symmetric matrix, it projects at each assignment of the
base, and as a parametrization it gives the module a new class that cannot be pickled.

Shapes: B batch, H hidden_size (one gate block: G = H).
"""

from __future__ import annotations

from math import pi
from typing import Any, ClassVar, Literal

import torch
from geotorch import SO
from torch import Tensor, nn

from cells.cores.modrelu import ModReLUCore
from cells.driven import AdamDriven, IdentityDriven, MomentumDriven, RMSPropDriven, SRDriven
from cells.engines.precision import full_precision, no_autocast
from cells.introspection import Flops
from cells.validation import one_of, positive_int


class OrthogonalCore(ModReLUCore):
    """h_t = modReLU(v_t + U h_{t-1}), U = map(A) B, A skew-symmetric; the bias of modReLU is the only bias.

    Parameters in addition to those of modReLU cells: ``skew``, the H(H-1)/2 entries of A below its diagonal, row by
    row, whose role for optimizers is ``orthogonal``. Buffer: the base B, here the identity (static trivialization).

    Args:
        skew_init: The initial A has 2 x 2 blocks [[0, s], [-s, 0]] on its diagonal: ``cayley`` draws s = -tan(u/2) with
            u ~ U(0, pi/2) (Helfrich et al. 2018), ``henaff`` draws s ~ U(-pi, pi) (Henaff et al. 2016).
    """

    trivialization: ClassVar[str]
    roles: ClassVar[dict[str, str]] = {"skew": "orthogonal"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        skew_init: Literal["cayley", "henaff"] = "cayley",
        **core: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, **core)
        H = self.hidden_size
        self.skew_init = one_of("skew_init", skew_init, ("cayley", "henaff"))
        self.skew = nn.Parameter(torch.empty(H * (H - 1) // 2))
        self.manifold = SO((H, H), triv=self.trivialization)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new initial parameters, with the identity as base."""
        super().reset_parameters()
        nn.init.eye_(self.manifold.base)
        blocks = draw_angles(self.skew_init, self.skew.new_empty(self.hidden_size // 2))
        rows = torch.arange(1, self.hidden_size, 2, device=self.skew.device)
        self.skew.zero_()
        self.skew[rows * (rows - 1) // 2 + rows - 1] = -blocks  # A[row, row - 1], the last entry of its row

    def recurrent_weight(self) -> Tensor:
        rows, columns = torch.tril_indices(self.hidden_size, self.hidden_size, -1, device=self.skew.device)
        with no_autocast(self.skew):
            skew = full_precision(self.skew)
            A_HH = skew.new_zeros(self.hidden_size, self.hidden_size).index_put((rows, columns), skew)
            # SO.forward multiplies in the other order, which makes A another parametrization than the published one
            weight_HH: Tensor = self.manifold.triv(A_HH - A_HH.mT) @ full_precision(self.manifold.base)
            return weight_HH.to(self.skew.dtype)

    def weight_flops(self) -> Flops:
        product = 2 * self.hidden_size**3  # of the base with the map
        return Flops(product, 2 * product if self.trivialization == "cayley" else product)


def draw_angles(skew_init: str, angles: Tensor) -> Tensor:
    """Fill ``angles`` with s = -tan(u/2), u ~ U(0, pi/2) (``cayley``), or with s ~ U(-pi, pi) (``henaff``)."""
    if skew_init == "cayley":
        return angles.uniform_(0, pi / 2).div_(2).tan_().neg_()
    return angles.uniform_(-pi, pi)


class DTRIVCore(OrthogonalCore):
    """h_t = modReLU(v_t + U h_{t-1}), U = exp(A) B, with the base B moved to U every few optimizer steps.

    Initially B = exp(A) for the drawn A, and A = 0. A rebase sets B = U and A = 0: U does not change, and its gradient
    is again that of the exponential map at 0. The moving averages of the optimizer stay, although they belong to the
    old base; the public code of expRNN does the same.

    The public code computes h_{t-1} B exp(A) with row vectors h. Its B is B^T here, its A is -A, and its parameter,
    the part of A above the diagonal, is ``skew``. An optimizer therefore takes the same steps, except after a rebase.
    The public code rebases after the forward pass has built its graph, so the first gradient after a rebase is that of
    the exponential map at the old A. Here every gradient belongs to the current A and B. With RMSprop at the rates of
    PMNIST, random data and 64 units, U moves differently by 4 to 5 % in 30 steps with K = 1. If the public code
    trains before it evaluates, its very first gradient is that at the drawn A, and the difference is 51 to 57 %.

    The cell counts optimizer steps: call ``follow_optimizer(model, optimizer)`` once, or ``after_optimizer_step()``
    after each step. Without these calls it never rebases. Because the count is of optimizer steps and not of forward
    passes, accumulated gradients all belong to one base. The base and both counts are buffers, so that a resumed run
    rebases at the same steps as an uninterrupted one.

    Source: Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds", NeurIPS 2019.

    Args:
        rebase_every: K, the number of optimizer steps between two rebases; None disables rebasing after the
            initialization ("infty" in the public code).
        project_every: M, the number of rebases between two projections of the base onto the orthogonal matrices, which
            remove its accumulated rounding errors.
    """

    trivialization = "expm"
    steps: Tensor
    rebases: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rebase_every: int | None = 100,
        project_every: int = 100,
        **orthogonal: Any,
    ) -> None:
        self.rebase_every = None if rebase_every is None else positive_int("rebase_every", rebase_every)
        self.project_every = positive_int("project_every", project_every)
        super().__init__(input_size, hidden_size, **orthogonal)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._move_base()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=self.skew.device))
        self.register_buffer("rebases", torch.zeros((), dtype=torch.int64, device=self.skew.device))

    def after_optimizer_step(self) -> None:
        """Count an optimizer step, and rebase after every ``rebase_every`` of them."""
        self.steps += 1
        if self.rebase_every is None or int(self.steps) % self.rebase_every:
            return
        self._move_base()
        self.rebases += 1
        if int(self.rebases) % self.project_every == 0:
            left_HH, _, right_HH = torch.linalg.svd(full_precision(self.manifold.base))
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
    """h_t = modReLU(W x_t + U h_{t-1}), U = exp(A) B, B rebased.

    Source: Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds", NeurIPS 2019.
    """


class MomentumDTRIV(MomentumDriven, DTRIVCore):
    """h_t = modReLU(v_t + U h_{t-1}), v_t = mu v_{t-1} + s W x_t, U = exp(A) B, B rebased.

    Source: Nguyen et al., "MomentumRNN: Integrating Momentum into Recurrent Neural Networks", NeurIPS 2020.
    """


class SRDTRIV(SRDriven, DTRIVCore):
    """h_t = modReLU(v_t + U h_{t-1}), v_t = (k-1)/(k+2) v_{t-1} + s W x_t, k = 1, .., F, 1, .., U = exp(A) B.

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
