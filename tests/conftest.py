"""What all tests share."""

import pytest
import torch

torch.set_num_threads(1)  # the tensors of tests are small: more threads would only wait for one another


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
