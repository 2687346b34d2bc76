r"""The Jacobian dh_T/dh_t: how much of a state reaches the end, measured and by the theory of momentum.

For the momentum cell with sigma = tanh, h_t = sigma(v_t + U h_{t-1}), v_t = mu v_{t-1} + s a_t, let
D_k = diag(sigma'(sigma^-1(h_k))) and Sigma_k = diag((sigma^-1)'(h_k)) = D_k^-1. Three quantities are different:

1. dh_T/dh_t for a fixed drive v, by which back-propagation multiplies: D_T U D_{T-1} U .. D_{t+1} U. It contains no mu.
2. The product in the analysis of Nguyen et al. (NeurIPS 2020, the section on vanishing gradients). They write
   h_{k+1} = sigma(U (h_k - mu h_{k-1}) + mu sigma^-1(h_k) + s a_{k+1}) and multiply the derivatives of one step with
   respect to h_k alone: D_{k+1} (U + mu Sigma_k), k = t .. T-1.
3. The derivative of that rewritten recurrence with respect to h_t for a fixed h_{t-1}, including the dependence of
   h_{k-1} on h_t. Moving h_t for fixed h_{t-1} and U means moving v_t by Sigma_t dh_t. The derivative is therefore the
   sum over k = t .. T of mu^(k-t) (dh_T/dh_k) D_k Sigma_t: the effect of a change of the *drive* at step t.

Shapes: T time, H hidden_size, R rows: entries of h_T.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cells.analysis.recording import gradients_through_time, recording
from cells.cell import Cell

ROWS = 32  # entries of h_T per backward pass, which needs the memory of as many sequences


@dataclass(frozen=True)
class Jacobians:
    """Spectral norms (largest singular values) of Jacobians over the steps t, of shape (len(steps),).

    Attributes:
        steps: t, counted from 1; the last is T.
        measured: ||dh_T/dh_t|| for fixed other parts of the state.
        bound: ||U||^(T-t) times the largest entries of D_{t+1} .. D_T, an upper bound of ``measured``; None if the cell
            is not a tanh network.
        published: Norm of the published product (2 above); None if the cell is not a tanh network with fixed momentum.
        through_drive: Norm of the derivative of the rewritten recurrence (3 above); None likewise.
    """

    steps: Sequence[int]
    measured: Tensor
    bound: Tensor | None
    published: Tensor | None
    through_drive: Tensor | None


def jacobians(cell: Cell, x_TI: Tensor, points: int = 48) -> Jacobians:
    """Return the norms of dh_T/dh_t for one sequence, at ``points`` evenly spaced steps t.

    The batch repeats the sequence, and each row asks for the gradient of one entry of h_T, so that one backward pass
    computes as many rows of all matrices.

    Args:
        cell: Any cell; use float64 so that small norms are not rounded to 0.
        x_TI: One sequence of inputs.
        points: Number of steps t, at most T.
    """
    T, H = len(x_TI), cell.hidden_size
    indices = sorted({round(t) for t in torch.linspace(0, T - 1, points).tolist()})
    network = cell.tanh_network()
    momentum = None if network is None else network.momentum
    J_chunks, through_chunks = [], []
    with _frozen(cell), torch.enable_grad():
        for units in torch.split(torch.arange(H, device=x_TI.device), ROWS):
            with recording(cell) as record:
                y_RTH, _ = cell(x_TI.detach().expand(len(units), -1, -1))
                asked = y_RTH[torch.arange(len(units)), -1, units].sum()
                J_TRH = gradients_through_time(asked, [record])[0]["h"]
            slopes_TH = 1 - y_RTH[0].detach() ** 2
            J_chunks.append(J_TRH[indices])
            if momentum is not None:
                through_chunks.append(_through_drive(J_TRH, slopes_TH, momentum, indices))
    bound = published = None
    if network is not None:
        bound = _bound(network.weight, slopes_TH)[indices]
        if momentum is not None:
            published = _published(network.weight, slopes_TH, momentum, indices)
    measured = torch.linalg.matrix_norm(torch.cat(J_chunks, 1), ord=2)
    through = torch.linalg.matrix_norm(torch.cat(through_chunks, 1), ord=2) if through_chunks else None
    return Jacobians([index + 1 for index in indices], measured, bound, published, through)


@contextmanager
def _frozen(cell: Cell) -> Iterator[None]:
    """Disable the gradients of all parameters inside the block."""
    parameters = [parameter for parameter in cell.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _bound(weight_HH: Tensor, slopes_TH: Tensor) -> Tensor:
    """Return ||U||^(T-t) max D_{t+1} .. max D_T, for every t."""
    factors_T = torch.linalg.matrix_norm(weight_HH, ord=2) * slopes_TH.max(1).values
    later_T = torch.cat([factors_T[1:], torch.ones_like(factors_T[:1])])
    return later_T.flip(0).cumprod(0).flip(0)


def _published(weight_HH: Tensor, slopes_TH: Tensor, momentum: float, indices: Sequence[int]) -> Tensor:
    norms = {}
    product_HH = torch.eye(len(weight_HH), dtype=weight_HH.dtype, device=weight_HH.device)
    for t in reversed(range(len(slopes_TH))):
        if t in indices:
            norms[t] = torch.linalg.matrix_norm(product_HH, ord=2)
        if t:  # the derivative of h_t with respect to h_{t-1}
            factor_HH = slopes_TH[t, :, None] * (weight_HH + torch.diag(momentum / slopes_TH[t - 1]))
            product_HH = product_HH @ factor_HH
    return torch.stack([norms[t] for t in indices])


def _through_drive(J_TRH: Tensor, slopes_TH: Tensor, momentum: float, indices: Sequence[int]) -> Tensor:
    found = {}
    by_drive_RH = torch.zeros_like(J_TRH[0])  # dh_T/dv_t, including the later v that depend on v_t
    for t in reversed(range(len(J_TRH))):
        by_drive_RH = J_TRH[t] * slopes_TH[t] + momentum * by_drive_RH
        if t in indices:
            found[t] = by_drive_RH / slopes_TH[t]
    return torch.stack([found[t] for t in indices])
