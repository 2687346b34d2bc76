"""Exported programs, for cells of each engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cells
from app.commands.export import write_program
from app.tasks import SequenceClassifier


@pytest.mark.parametrize("name", ["MomentumRNN", "RMSPropLSTM", "DTRIV", "NesterovGRU"])
def test_number_of_rows_is_dynamic(name):
    model = SequenceClassifier(cells.find_cell(name), input_size=2, num_classes=3, hidden_size=4)
    write_program(model, torch.rand(2, 5, 2), Path("model.pt2"))
    program = torch.export.load("model.pt2").module()
    for rows in (1, 7):
        inputs = torch.rand(rows, 5, 2)
        torch.testing.assert_close(program(inputs), model(inputs), rtol=1e-4, atol=1e-5)
