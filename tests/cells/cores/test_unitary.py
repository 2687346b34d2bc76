"""Products of reflections and unitary weights: their construction, their orthogonality, the complex modReLU."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cells
from cells import parameter_roles


def distance_from_orthogonal(cell):
    weight_HH = cell.recurrent_weight().detach().double()
    return (weight_HH.mT @ weight_HH - torch.eye(len(weight_HH)).double()).abs().max().item()


@pytest.mark.parametrize("size", [10, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("build", [cells.HouseholderRNN, cells.UnitaryRNN])
def test_orthogonal_after_1000_optimizer_steps_in_float32(build, size):
    cell = build(2, size)
    start_HH = cell.recurrent_weight().detach()
    optimizer = torch.optim.RMSprop(cell.parameters(), lr=1e-2)
    for _ in range(1000):
        optimizer.zero_grad()
        y_BTH, _ = cell(torch.randn(2, 2, 2))
        (y_BTH - 1).square().mean().backward()
        optimizer.step()
    assert (cell.recurrent_weight() - start_HH).abs().max() > 0.1
    assert distance_from_orthogonal(cell) < 1e-5


@pytest.mark.parametrize("build", [cells.HouseholderRNN, cells.UnitaryRNN])
def test_orthogonal_at_512_units_and_far_from_the_initial_weight(build):
    cell = build(1, 512)
    with torch.no_grad():
        for name in parameter_roles(cell):
            cell.get_parameter(name).normal_()
    assert distance_from_orthogonal(cell) < 1e-5


@pytest.mark.parametrize("reflections", [1, 2, 5, 8])
def test_each_reflection_flips_the_determinant_and_fixes_a_subspace(reflections):
    U_HH = cells.HouseholderRNN(1, 8, reflections=reflections).double().recurrent_weight()
    assert torch.linalg.det(U_HH).item() == pytest.approx((-1) ** reflections)
    fixed = torch.linalg.matrix_rank(U_HH - torch.eye(8).double()).item()
    assert fixed == reflections if reflections < 8 else fixed <= 8


def test_number_of_parameters():
    """R vectors of H, H - 1, .. entries; N^2 numbers of a skew-Hermitian matrix."""
    assert cells.HouseholderRNN(1, 10, reflections=3).vectors.numel() == 10 + 9 + 8
    assert cells.HouseholderRNN(1, 10).vectors.numel() == 55
    assert cells.UnitaryRNN(1, 10).skew.numel() == 25
    assert cells.UnitaryRNN(1, 10).modrelu_bias.numel() == 5


def test_unitary_weight_is_of_full_capacity():
    """A unitary matrix, here from the QR decomposition of a random one, is the exponential of a skew-Hermitian one."""
    torch.manual_seed(3)
    target, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.complex128))
    eigenvalues, V = torch.linalg.eig(target)
    A = V @ torch.diag(1j * eigenvalues.angle()) @ torch.linalg.inv(V)
    cell = cells.UnitaryRNN(1, 8).double()
    with torch.no_grad():
        cell.skew.copy_(A.real.tril(-1) + A.imag.triu())
    U = cell.recurrent_weight().detach()
    assert_close(torch.complex(U[:4, :4], U[4:, :4]), target, rtol=0, atol=1e-10)
    assert_close(U[:4, :4], U[4:, 4:], rtol=0, atol=0)
    assert_close(U[:4, 4:], -U[4:, :4], rtol=0, atol=0)


@pytest.mark.parametrize("engine", ["reference", "fused"])
def test_unit_at_zero_stays_at_zero_without_gradient(engine):
    """At 0 the phase is undefined: output and gradient are 0, as for the real modReLU, and not NaN."""
    cell = cells.UnitaryRNN(1, 4, engine=engine)
    nn.init.constant_(cell.modrelu_bias, 0.01)
    x_BTI = torch.zeros(2, 100, 1, requires_grad=True)
    y_BTH, _ = cell(x_BTI)
    y_BTH.sum().backward()
    assert not y_BTH.any()
    assert not x_BTI.grad.any()
    assert not any(parameter.grad.any() for parameter in cell.parameters())


def test_without_bias_the_norm_of_h_is_constant():
    cell = cells.UnitaryRNN(1, 16).double()
    nn.init.zeros_(cell.modrelu_bias)
    x_BTI = torch.zeros(1, 200, 1, dtype=torch.float64)
    x_BTI[0, 0] = 1
    y_BTH, _ = cell(x_BTI)
    lengths_T = y_BTH[0].norm(dim=-1)
    assert_close(lengths_T, lengths_T[:1].expand(200), rtol=1e-12, atol=0)


def test_roles():
    model = nn.Sequential(cells.HouseholderRNN(1, 4), cells.UnitaryRNN(4, 6))
    assert parameter_roles(model) == {"0.vectors": "orthogonal", "1.skew": "orthogonal"}


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (cells.UnitaryRNN, {"hidden_size": 5}, "hidden_size must be even .*, got 5"),
        (cells.UnitaryRNN, {"skew_init": "eye"}, "skew_init must be one of 'cayley', 'henaff', got 'eye'"),
        (cells.HouseholderRNN, {"reflections": 9}, "reflections must be at most hidden_size = 6, got 9"),
        (cells.HouseholderRNN, {"reflections": 0}, "reflections must be a positive integer, got 0"),
    ],
)
def test_invalid_argument_raises(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"input_size": 1, "hidden_size": 6, **arguments})
