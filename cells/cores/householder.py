"""Recurrent networks whose orthogonal recurrent weight is a product of reflections.

torch's own parametrization by reflections (``torch.nn.utils.parametrizations.orthogonal``) does not fit: for a square
weight it always multiplies H of them, and the number of reflections is the subject of this cell.

Shapes: H hidden_size, R reflections.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cells.cores.modrelu import ModReLUCore
from cells.driven import IdentityDriven
from cells.engines.precision import full_precision, no_autocast
from cells.introspection import Flops
from cells.validation import positive_int


class HouseholderCore(ModReLUCore):
    """h_t = modReLU(v_t + U h_{t-1}), U = P_1 P_2 .. P_R, P_r = I - 2 w_r w_r^T / |w_r|^2; w_r is 0 before entry r.

    R = H reflections reach every orthogonal matrix of determinant (-1)^R. Fewer reach a part of them, with R / H of the
    operations.

    Parameters in addition to those of modReLU cells: ``vectors``, the entries of w_1, .., w_R that are not 0, row by
    row as the lower triangle of a matrix (H, R). They are initialized as standard normal numbers, and their role for
    optimizers is ``orthogonal``.

    Args:
        reflections: R, at most hidden_size; None means hidden_size.
    """

    roles: ClassVar[dict[str, str]] = {"vectors": "orthogonal"}

    def __init__(self, input_size: int, hidden_size: int, *, reflections: int | None = None, **core: Any) -> None:
        super().__init__(input_size, hidden_size, **core)
        self.reflections = hidden_size if reflections is None else positive_int("reflections", reflections)
        if self.reflections > hidden_size:
            raise ValueError(f"reflections must be at most hidden_size = {hidden_size}, got {reflections}")
        self.vectors = nn.Parameter(torch.empty(self.places().shape[1]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.normal_(self.vectors)

    def places(self) -> Tensor:
        """Return the rows and columns of the entries of ``vectors`` in the matrix of the w_r."""
        return torch.tril_indices(self.hidden_size, self.reflections, device=self.weight_ih.device)

    def recurrent_weight(self) -> Tensor:
        """Return I - W T^-1 W^T with W = [w_1 .. w_R] and T the upper triangle of W^T W, its diagonal halved."""
        rows, columns = self.places()
        with no_autocast(self.vectors):
            vectors = full_precision(self.vectors)
            W_HR = vectors.new_zeros(self.hidden_size, self.reflections).index_put((rows, columns), vectors)
            W_HR = W_HR / torch.linalg.vector_norm(W_HR, dim=0)
            T_RR = (W_HR.mT @ W_HR).triu(1) + torch.eye(self.reflections).to(W_HR) / 2
            product_HH: Tensor = W_HR @ torch.linalg.solve_triangular(T_RR, W_HR.mT, upper=True)
            return (torch.eye(self.hidden_size).to(W_HR) - product_HH).to(self.vectors.dtype)

    def weight_flops(self) -> Flops:
        H, R = self.hidden_size, self.reflections
        return Flops(2 * H * R * (H + R), 2 * H * R * (2 * H + 3 * R))


class HouseholderRNN(IdentityDriven, HouseholderCore):
    """h_t = modReLU(W x_t + U h_{t-1}), U = P_1 P_2 .. P_R a product of reflections.

    Source: Mhammedi, Hellicar, Rahman and Bailey, "Efficient Orthogonal Parametrisation of Recurrent Neural Networks
    Using Householder Reflections", ICML 2017, with modReLU instead of its leaky ReLU, so that this cell differs from
    :class:`ExpRNN` only in the construction of U.
    """
