"""Orthogonal cells: the manifold, rebases, counts, roles, resuming."""

import copy

import numpy as np
import pytest
import torch
from helpers import cell_builders, oracle
from torch.testing import assert_close

import cells
from cells import DTRIV, follow_optimizer, parameter_roles
from cells.cores.modrelu import modrelu


def distance_from_orthogonal(weight_HH):
    weight_HH = weight_HH.detach().double()
    return (weight_HH.mT @ weight_HH - torch.eye(len(weight_HH)).double()).abs().max().item()


def make_trainer(cell, lr=1e-2):
    """Return a training step that draws its own data, and the optimizer."""
    optimizer = torch.optim.RMSprop(cell.parameters(), lr=lr, alpha=0.9)
    follow_optimizer(cell, optimizer)

    def step(accumulate=1):
        optimizer.zero_grad()
        for _ in range(accumulate):
            y_BTH, _ = cell(torch.randn(2, 2, cell.input_size, dtype=cell.weight_ih.dtype))
            (y_BTH - 1).square().mean().backward()
        optimizer.step()

    return step, optimizer


@pytest.mark.parametrize(("hidden_size", "expected"), [(170, 16_415), (360, 68_950), (512, 136_970)])
def test_parameter_counts_of_the_published_classifiers(hidden_size, expected):
    model = torch.nn.ModuleList([DTRIV(1, hidden_size), torch.nn.Linear(hidden_size, 10)])
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("skew_init", ["cayley", "henaff"])
@pytest.mark.parametrize("name", ["DTRIV", "ExpRNN", "CayleyRNN"])
@pytest.mark.parametrize("H", [1, 2, 7])
def test_recurrent_weight_equals_the_oracle(name, skew_init, H):
    cell = cell_builders.random_cell(cells.find_cell(name), 2, H, skew_init=skew_init)
    weight_HH = cell.recurrent_weight().detach()
    expected = oracle.orthogonal(name, cell.manifold.base.numpy(), cell.skew.detach().numpy())
    assert_close(weight_HH, torch.from_numpy(np.asarray(expected)), rtol=0, atol=1e-12)
    assert distance_from_orthogonal(weight_HH) < 1e-6  # the base was made in float32


def test_dynamic_and_static_cells_start_at_the_same_weight():
    torch.manual_seed(1)
    static = cells.ExpRNN(2, 6)
    torch.manual_seed(1)
    dynamic = DTRIV(2, 6)
    assert_close(dynamic.recurrent_weight(), static.recurrent_weight(), rtol=0, atol=1e-6)
    assert not dynamic.skew.any()
    assert static.skew.any()
    assert torch.equal(static.manifold.base, torch.eye(6))


@pytest.mark.parametrize(
    "rebase_every", [pytest.param(1, marks=pytest.mark.slow), 7, pytest.param(None, marks=pytest.mark.slow)]
)
def test_orthogonal_after_1000_optimizer_steps_in_float32(rebase_every):
    cell = DTRIV(2, 24, rebase_every=rebase_every)
    start_HH = cell.recurrent_weight().detach()
    step, _ = make_trainer(cell, lr=3e-3)
    for _ in range(1000):
        step()
    assert int(cell.steps) == 1000
    assert int(cell.rebases) == (0 if rebase_every is None else 1000 // rebase_every)
    assert (cell.recurrent_weight() - start_HH).abs().max() > 0.1
    assert distance_from_orthogonal(cell.recurrent_weight()) < 1e-5


def test_projection_removes_accumulated_rounding():
    kept, projected = (DTRIV(2, 16, rebase_every=1, project_every=n) for n in (10**6, 10))
    for cell in (kept, projected):
        cell.manifold.base.add_(1e-4 * torch.randn(16, 16))
        for _ in range(10):
            cell.after_optimizer_step()
    assert distance_from_orthogonal(kept.recurrent_weight()) > 1e-5
    # an entry of W^T W is a sum of 16 products; the projection and the map each round W once more
    assert distance_from_orthogonal(projected.recurrent_weight()) < 4 * 16 * torch.finfo(torch.float32).eps  # 7.6e-6


@pytest.mark.parametrize("name", ["ExpRNN", "CayleyRNN", "HouseholderRNN", "UnitaryRNN", "DTRIV"])
def test_recurrent_weight_of_bfloat16_parameters_is_orthogonal(name):
    """Its entries are rounded once, by at most 2^-8 of themselves, so an entry of U^T U changes by at most 2^-7."""
    cell = cells.find_cell(name)(2, 24).bfloat16()
    assert cell.recurrent_weight().dtype == torch.bfloat16
    rounded_base = 1 + (name == "DTRIV")
    assert distance_from_orthogonal(cell.recurrent_weight()) < rounded_base * 2**-7


def test_projection_runs_with_bfloat16_parameters():
    cell = DTRIV(2, 24, rebase_every=1, project_every=1).bfloat16()
    cell.after_optimizer_step()
    assert distance_from_orthogonal(cell.recurrent_weight()) < 2 * 2**-7


def test_rebase_moves_the_base_and_keeps_the_function():
    cell = cell_builders.random_cell(DTRIV, 2, 6, rebase_every=2)
    x_BTI = torch.randn(3, 8, 2, dtype=torch.float64)
    base, before = cell.manifold.base.clone(), cell(x_BTI)[0]
    cell.after_optimizer_step()
    assert torch.equal(cell.manifold.base, base)
    skew = cell.skew
    cell.after_optimizer_step()
    assert cell.skew is skew
    assert not cell.skew.any()
    assert not torch.allclose(cell.manifold.base, base, atol=1e-2, rtol=0)
    assert_close(cell(x_BTI)[0], before, rtol=0, atol=1e-12)


def test_steps_are_counted_not_forward_passes():
    cell = DTRIV(2, 4, rebase_every=3)
    step, _ = make_trainer(cell)
    for _ in range(4):
        step(accumulate=5)
    cell(torch.randn(1, 2, 2))
    assert (int(cell.steps), int(cell.rebases)) == (4, 1)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")  # Lightning on this torch
def test_steps_are_counted_under_lightning():
    lightning = pytest.importorskip("pytorch_lightning")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.cell = DTRIV(2, 4, rebase_every=2)

        def training_step(self, batch, _):
            return self.cell(batch)[0].square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters())
            follow_optimizer(self, optimizer)
            return optimizer

    task = Task()
    trainer = lightning.Trainer(
        max_epochs=1,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, torch.utils.data.DataLoader(torch.randn(12, 3, 2), batch_size=2))
    assert (trainer.global_step, int(task.cell.steps), int(task.cell.rebases)) == (3, 3, 1)


def test_follow_optimizer_reaches_every_cell_until_removed():
    model = torch.nn.ModuleDict({"a": DTRIV(2, 4), "b": torch.nn.Sequential(cells.AdamDTRIV(4, 3), cells.LSTM(4, 3))})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = follow_optimizer(model, optimizer)
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert [int(cell.steps) for cell in (model["a"], model["b"][0])] == [1, 1]


def test_resumed_run_is_bitwise_identical():
    def train(cell, step, n):
        for _ in range(n):
            step()
        return cell.recurrent_weight().detach()

    torch.manual_seed(1)
    cell = DTRIV(2, 5, rebase_every=3, project_every=2).double()
    step, optimizer = make_trainer(cell)
    train(cell, step, 4)
    saved = copy.deepcopy((cell.state_dict(), optimizer.state_dict())), torch.get_rng_state()
    expected = train(cell, step, 20)

    resumed = DTRIV(2, 5, rebase_every=3, project_every=2).double()
    step, optimizer = make_trainer(resumed)
    resumed.load_state_dict(saved[0][0])
    optimizer.load_state_dict(saved[0][1])
    torch.set_rng_state(saved[1])
    assert torch.equal(train(resumed, step, 20), expected)
    assert (int(resumed.steps), int(resumed.rebases)) == (24, 8)


def test_copy_has_its_own_count():
    cell = DTRIV(2, 4, rebase_every=1)
    other = copy.deepcopy(cell)
    other.after_optimizer_step()
    assert (int(cell.steps), int(other.steps)) == (0, 1)


def test_roles_of_the_parameters_of_a_model():
    model = torch.nn.Sequential(cells.MomentumDTRIV(2, 4), cells.LSTM(4, 3), cells.ExpRNN(3, 2))
    assert parameter_roles(model) == {"0.skew": "orthogonal", "2.skew": "orthogonal"}
    assert parameter_roles(cells.CayleyRNN(2, 3)) == {"skew": "orthogonal"}
    moved = copy.deepcopy(model).to("meta")
    names = dict(moved.named_parameters())
    assert all(name in names for name in parameter_roles(moved))


def test_weight_is_computed_once_per_sequence_in_full_precision(monkeypatch):
    cell = DTRIV(2, 40)
    torch.nn.init.normal_(cell.skew)
    calls = []
    exact = cell.recurrent_weight().detach()
    monkeypatch.setattr(
        DTRIV, "recurrent_weight", lambda self: calls.append(weight := super(DTRIV, self).recurrent_weight()) or weight
    )
    with torch.autocast("cpu", torch.bfloat16):
        cell(torch.randn(3, 50, 2))
    assert len(calls) == 1
    assert_close(calls[0].detach(), exact, rtol=0, atol=0)


def test_modrelu():
    z_BH = torch.tensor([[-2.0, -0.5, 0.0, 0.5, 2.0]])
    assert modrelu(z_BH, torch.full((5,), -1.0)).tolist() == [[-1.0, 0.0, 0.0, 0.0, 1.0]]
    assert modrelu(z_BH, torch.full((5,), 1.0)).tolist() == [[-3.0, -1.5, 0.0, 1.5, 3.0]]  # discontinuous at 0, by 2
