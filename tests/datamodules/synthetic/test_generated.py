"""Tests of generated data: reproducible examples, new examples in each epoch, definitions of both problems."""

from __future__ import annotations

from itertools import chain
from math import log

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules import Adding, Copying
from datamodules.synthetic.generated import FreshBatches, GeneratedDataset

WORD = 2**64


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Return the four words of Philox 4x64 with ten rounds (Salmon et al. 2011) for a key and a counter."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, WORD)
        high1, low1 = divmod(0xCA5A826395121157 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % WORD, (k1 + 0xBB67AE8584CAA73B) % WORD
    return [c0, c1, c2, c3]


def everything(data: Copying | Adding, part: str = "train") -> dict[str, torch.Tensor]:
    data.setup()
    dataset = getattr(data, part)
    return dataset.__getitems__(range(len(dataset)))


@pytest.mark.parametrize("index", [0, 1, 12_345_678])
def test_numbers_equal_philox_at_the_counters(index):
    dataset = GeneratedDataset(lambda numbers: {"numbers": torch.as_tensor(numbers)}, 10, size=1, seed=7, part=2)
    words = [word for block in (1, 2, 3) for word in philox((7, 2), (block, index, 0, 0))]
    expected = [(word >> 11) / 2**53 for word in words[:10]]
    assert dataset[index]["numbers"].tolist() == expected


@pytest.mark.parametrize("make", [Copying, Adding])
def test_example_is_independent_of_its_batch(make):
    data = make(seed=3)
    data.setup()
    together, other = data.train.__getitems__([5, 2, 9]), data.train.__getitems__([9, 5])
    for name, tensor in together.items():
        assert torch.equal(tensor[[2, 0]], other[name])
        assert torch.equal(data.train[5][name], tensor[0])


@pytest.mark.parametrize("make", [Copying, Adding])
def test_each_epoch_has_new_examples(make):
    data = make(seed=1, train_size=20, batch_size=8)
    data.setup()
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1):
        loader.batch_sampler.sampler.set_epoch(epoch)  # as Lightning does
        batches = list(loader)
        assert [len(batch["inputs"]) for batch in batches] == [8, 8, 4]
        epochs.append(torch.cat([batch["inputs"].flatten(1) for batch in batches]))
    found = torch.cat(epochs)
    assert len(found.unique(dim=0)) == 40
    expected = data.train.__getitems__(range(40))["inputs"].flatten(1)
    for epoch, rows in enumerate(epochs):  # in any order
        assert torch.equal(rows.unique(dim=0), expected[20 * epoch : 20 * epoch + 20].unique(dim=0))


def test_processes_read_the_examples_of_one_process_with_larger_batches():
    def read(rank: int, world_size: int) -> list[list[int]]:
        batches = FreshBatches(23, 12 // world_size, shuffle=True, seed=4, rank=rank, world_size=world_size)
        batches.set_epoch(3)
        return list(batches)

    alone, *shares = read(0, 1), read(0, 3), read(1, 3), read(2, 3)
    assert sorted(chain(*alone)) == list(range(69, 92))
    full, incomplete = (sorted(chain(*batches)) for batches in zip(*shares, strict=True))
    assert full == sorted(alone[0])
    assert len(incomplete) == 9  # of 11: the same number for each process
    assert set(incomplete) < set(alone[1])


@pytest.mark.parametrize("make", [Copying, Adding])
def test_seed_changes_training_examples_only(make, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    first, again = everything(make(train_size=50)), everything(make(train_size=50, seed=1))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    other = everything(make(train_size=50))
    assert torch.equal(first["inputs"], again["inputs"])
    assert not torch.equal(first["inputs"], other["inputs"])
    parts = {
        part: everything(make(validation_size=50, test_size=50), part)["inputs"] for part in ("validation", "test")
    }
    assert torch.equal(parts["test"], everything(make(test_size=50, seed=5), "test")["inputs"])
    for one, two in [("validation", "test"), ("validation", other), ("test", other)]:
        assert not torch.equal(parts[one], parts[two] if isinstance(two, str) else two["inputs"])


@pytest.mark.parametrize(("form", "marker"), [("exprnn", 7), ("arjovsky", 6)])
def test_copying_equals_the_docstring(form, marker):
    data = Copying(blanks=4, symbols=3, alphabet=8, form=form, train_size=200)
    found = everything(data)
    assert found["inputs"].shape == (200, 10, 10)
    assert (found["inputs"].sum(-1) == 1).all()
    inputs = found["inputs"].argmax(-1)
    symbols = inputs[:, :3]
    expected_inputs, expected_targets = np.zeros((2, 200, 10), dtype=np.int64)
    for row, said in enumerate(symbols.tolist()):
        expected_inputs[row, :3] = said
        expected_inputs[row, marker] = 9
        expected_targets[row, 7:] = said
    assert np.array_equal(inputs, expected_inputs)
    assert np.array_equal(found["targets"], expected_targets)
    assert torch.equal(found["scored"], found["targets"] > 0)
    counts = torch.bincount(symbols.flatten(), minlength=10)
    assert counts[[0, 9]].sum() == 0
    assert (counts[1:9] - 75).abs().max() < 5 * (600 * 7 / 64) ** 0.5


@pytest.mark.parametrize(
    ("blanks", "published"), [(100, 0.1733), (200, 0.0945), (500, 0.0400), (1000, 0.0204), (2000, 0.0103)]
)
def test_copying_baseline_equals_the_published_value(blanks, published):
    data = Copying(blanks=blanks)
    assert data.baselines()["no memory"] == pytest.approx(published, abs=6e-5)
    assert data.solved_below == pytest.approx(10 * log(8) / (blanks + 20) / 10)


@pytest.mark.parametrize("form", ["exprnn", "arjovsky"])
def test_copying_baseline_equals_the_loss_without_memory(form):
    data = Copying(blanks=5, symbols=4, alphabet=3, form=form, train_size=10)
    found = everything(data)
    probabilities = torch.zeros(10, 13, 4)
    probabilities[:, :9, 0] = 1
    probabilities[:, 9:, 1:] = 1 / 3
    loss = F.nll_loss(probabilities.clamp(min=1e-30).log().flatten(0, 1), found["targets"].flatten())
    assert data.baselines() == {"no memory": pytest.approx(loss.item(), rel=1e-6)}


@pytest.mark.parametrize("steps", [2, 7, 200])
def test_adding_marks_one_number_in_each_half(steps):
    data = Adding(steps=steps, train_size=3000)
    found = everything(data)
    assert found["inputs"].shape == (3000, steps, 2)
    assert found["targets"].shape == (3000, 1)
    values, marks = found["inputs"].double().unbind(-1)
    assert set(marks.unique().tolist()) <= {0.0, 1.0}
    half = steps // 2
    assert (marks[:, :half].sum(1) == 1).all()
    assert (marks[:, half:].sum(1) == 1).all()
    torch.testing.assert_close((values * marks).sum(1), found["targets"][:, 0].double(), rtol=0, atol=2e-7)
    assert 0 <= values.min() < values.max() < 1
    assert values.mean().item() == pytest.approx(0.5, abs=5 * (1 / 12 / values.numel()) ** 0.5)
    for part in (marks[:, :half], marks[:, half:]):  # all steps are equally likely
        share = 1 / part.shape[1]
        assert (part.mean(0) - share).abs().max() <= 5 * (share * (1 - share) / 3000) ** 0.5


def test_adding_baseline_equals_the_loss_of_predicting_one():
    targets = everything(Adding(train_size=40_000, steps=4))["targets"].double()
    (baseline,) = Adding().baselines().values()
    assert ((targets - 1) ** 2).mean().item() == pytest.approx(baseline, abs=5 * (7 / 180 / 40_000) ** 0.5)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Copying, {"blanks": 0}, "blanks must be an integer of at least 1, got 0"),
        (Copying, {"alphabet": 1}, "alphabet must be an integer of at least 2, got 1"),
        (Copying, {"form": "other"}, "form must be one of exprnn, arjovsky, got 'other'"),
        (Copying, {"train_size": 0}, "train_size must be an integer of at least 1, got 0"),
        (Adding, {"steps": 1}, "steps must be an integer of at least 2, got 1"),
        (
            Adding,
            {"seed": -1},
            r"seed must be an integer in \[0, 2\*\*32\), or null for the seed of the run, got -1",
        ),
    ],
)
def test_invalid_arguments_raise(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
