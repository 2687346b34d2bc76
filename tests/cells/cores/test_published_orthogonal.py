"""Orthogonal cells against the parametrization of their public code, h_t = modReLU(v_t + h_{t-1} B exp(A)).

In the public code h is a row vector, and the parameter is the part of A above its diagonal.

Shapes: B batch, T time, I input_size, H hidden_size.
"""

import pytest
import torch
from helpers import cell_builders
from torch.testing import assert_close

import cells
from cells import follow_optimizer

B, T, I, H, STEPS = 4, 9, 3, 8, 30  # noqa: E741
MU, S, BETA, DELTA = 0.6, 0.3, 0.9, 1e-4
MAPS = {
    "exp": torch.linalg.matrix_exp,
    # the public Cayley map is (I + A)^-1 (I - A); with A / 2 it has the scale of the map of geotorch
    "cayley": lambda A_HH: torch.linalg.solve(torch.eye(H) + A_HH / 2, torch.eye(H) - A_HH / 2),
}


class Published(torch.nn.Module):
    """The public code's parameters: A above its diagonal, in a full matrix, and a base as a buffer."""

    def __init__(self, cell, drive):
        super().__init__()
        self.drive = drive
        self.map = MAPS["cayley" if isinstance(cell, cells.CayleyRNN) else "exp"]
        self.A = torch.nn.Parameter(torch.zeros(H, H))
        rows, columns = torch.tril_indices(H, H, -1)
        self.A.data[columns, rows] = cell.skew.detach()
        if self.map is MAPS["cayley"]:
            self.A.data.neg_()  # its map is that of geotorch at -A
        self.base = cell.manifold.base.mT.clone()
        self.weight = torch.nn.Parameter(cell.weight_ih.detach().clone())
        self.bias = torch.nn.Parameter(cell.modrelu_bias.detach().clone())

    def kernel(self):
        upper_HH = self.A.triu(1)
        return self.base @ self.map(upper_HH - upper_HH.mT)

    def rebase(self):
        with torch.no_grad():
            self.base = self.kernel()
            self.A.zero_()

    def forward(self, x_BTI):
        kernel_HH = self.kernel()
        h = v = m = torch.zeros(B, H)
        outputs = []
        for k, x_BI in enumerate(x_BTI.unbind(1), 1):
            a = x_BI @ self.weight.mT
            if self.drive == "":
                z = a + h @ kernel_HH
            elif self.drive == "Momentum":
                v = MU * v + S * a
                z = v + h @ kernel_HH
            elif self.drive == "SR":
                v = (k - 1) / (k + 2) * v + S * a
                z = v + h @ kernel_HH
            elif self.drive == "RMSProp":
                m = BETA * m + (1 - BETA) * a * a
                z = S * a / torch.sqrt(m + DELTA) + h @ kernel_HH
            elif self.drive == "Adam":
                v = MU * v + S * a
                m = BETA * m + (1 - BETA) * a * a
                z = v / torch.sqrt(m + DELTA) + h @ kernel_HH
            else:
                y = S * a + h @ kernel_HH  # v is the y of the step before
                z, v = y + (k - 1) / (k + 2) * (y - v), y
            h = torch.sign(z) * torch.relu(z.abs() + self.bias)
            outputs.append(h)
        return torch.stack(outputs, 1)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def arguments_of(drive):
    known = {"momentum": MU, "step_size": S, "beta": BETA, "delta": DELTA, "restart_period": T}
    names = {
        "": (),
        "Momentum": ("momentum", "step_size"),
        "SR": ("step_size", "restart_period"),
        "RMSProp": ("step_size", "beta", "delta"),
        "Adam": ("momentum", "step_size", "beta", "delta"),
        "Nesterov": ("step_size", "restart_period"),
    }
    return {name: known[name] for name in names[drive]}


@pytest.mark.parametrize("rebase_every", [None, 1, 7])
@pytest.mark.parametrize("name", ["DTRIV", "MomentumDTRIV", "SRDTRIV", "RMSPropDTRIV", "AdamDTRIV", "NesterovDTRIV"])
def test_30_optimizer_steps_of_dtriv_equal_the_published_parametrization(name, rebase_every):
    drive = name.removesuffix("DTRIV")
    cell = cell_builders.DRIVEN[name](I, H, rebase_every=rebase_every, skew_init="henaff", **arguments_of(drive))
    compare_training(cell, drive, rebase_every)


@pytest.mark.parametrize("name", ["ExpRNN", "CayleyRNN"])
def test_30_optimizer_steps_with_a_static_base_equal_the_published_parametrization(name):
    compare_training(cell_builders.DRIVEN[name](I, H, skew_init="henaff"), "", None)


def compare_training(cell, drive, rebase_every):
    """Train a cell and the published one with the rates of PMNIST, and compare their weights after each step."""
    published = Published(cell, drive)
    names = {"weight": cell.weight_ih, "bias": cell.modrelu_bias}
    optimizers = [
        torch.optim.RMSprop([{"params": own, "lr": 7e-4}, {"params": orthogonal, "lr": 2e-4}], alpha=0.99)
        for own, orthogonal in (
            ([cell.weight_ih, cell.modrelu_bias], [cell.skew]),
            ([published.weight, published.bias], [published.A]),
        )
    ]
    follow_optimizer(cell, optimizers[0])
    start_HH = cell.recurrent_weight().detach()
    for step in range(1, STEPS + 1):
        x_BTI, target_BTH = torch.randn(B, T, I), torch.randn(B, T, H)
        for optimizer, y_BTH in zip(optimizers, (cell(x_BTI)[0], published(x_BTI)), strict=True):
            optimizer.zero_grad()
            (y_BTH - target_BTH).square().mean().backward()
            optimizer.step()
        if rebase_every is not None and step % rebase_every == 0:
            published.rebase()
        assert_close(cell.recurrent_weight(), published.kernel().mT, rtol=0, atol=1e-11)
        for other, parameter in names.items():
            assert_close(parameter, getattr(published, other), rtol=0, atol=1e-11)
    assert (cell.recurrent_weight() - start_HH).abs().max() > 0.003
