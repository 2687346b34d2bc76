"""FLOPs of a training step against a count written out for each layer."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from app.runs.training_flops import training_flops
from app.tasks import SequenceClassifier
from cells import GRU, LMU, LSTM, AdamLSTM
from datamodules import Digits

B, T, H, C = 64, 64, 16, 10


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits(batch_size=B)
    data.setup()
    return data


@pytest.mark.parametrize(("cell", "gates"), [(LSTM, 4), (GRU, 3), (AdamLSTM, 4)])
def test_step_of_a_classifier_is_cell_and_head(digits, cell, gates):
    flops = training_flops(SequenceClassifier(cell, 1, C, H), digits)
    G = gates * H
    assert flops["forward"] == 2 * B * T * (1 + H) * G + 2 * B * H * C
    # weights W and U, then h of all steps but the first; head: its weight and its input
    assert flops["backward"] == 2 * B * T * (1 + H) * G + 2 * B * (T - 1) * H * G + 2 * 2 * B * H * C


def test_count_equals_torchs_on_the_step_loop(digits):
    task = SequenceClassifier(LMU, 1, C, H)
    batch = next(iter(digits.train_dataloader()))
    with FlopCounterMode(display=False) as counter:
        task.probe_loss(batch).backward()
    assert sum(training_flops(task, digits).values()) == counter.get_total_flops()


def test_random_numbers_and_weights_are_unchanged(digits):
    task = SequenceClassifier(LSTM, 1, C, H)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    state = torch.random.get_rng_state()
    training_flops(task, digits)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(parameter.grad is None for parameter in task.parameters())


def test_task_that_does_not_support_probing_has_no_count(digits, monkeypatch):
    monkeypatch.setattr(SequenceClassifier, "supports_probing", False)
    assert training_flops(SequenceClassifier(LSTM, 1, C, H), digits) is None
