"""No engine mixes devices: cells run on a fake device, in a separate process."""

import os
import subprocess
import sys

import pytest
from helpers.cell_builders import BUILT_IN
from helpers.paths import ROOT

NEEDS_NUMBERS = ("DTRIV", "ExpRNN", "CayleyRNN")  # geotorch looks at the numbers of an initial weight
FEW = ["LSTM", "MomentumGRU", "AdamLSTM", "NesterovRNN", "URLSTM", "UnitaryRNN"]
REST = [name for name in BUILT_IN if not name.endswith(NEEDS_NUMBERS) and name not in FEW]


@pytest.mark.parametrize("names", [FEW, pytest.param(REST, marks=pytest.mark.slow)], ids=["few", "rest"])
def test_outputs_and_gradients_are_on_the_device_of_the_cell(names):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "helpers.fake_device", *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(names)
    if "AdamLSTM" in names:
        assert "AdamLSTM run_library passed" in done.stdout
