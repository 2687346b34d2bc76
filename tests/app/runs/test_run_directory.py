"""The lock on a run directory, and which directories a new run may use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from app.errors import UserError
from app.runs.run_directory import RunDirectory

HOLD = """
import sys, time
from pathlib import Path
from app.runs.run_directory import RunDirectory
with RunDirectory(Path("run")).locked(new=True):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_directory_in_use_is_refused_with_process_and_host(holder):
    with (
        pytest.raises(UserError, match=f"run is in use by process {holder.pid} on {socket.gethostname()}"),
        RunDirectory(Path("run")).locked(new=False),
    ):
        pass


def test_lock_of_a_killed_process_does_not_block(holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert Path("run/run.lock").exists()
    with RunDirectory(Path("run")).locked(new=True):
        assert f"process {os.getpid()} on" in Path("run/run.owner").read_text()
    assert list(Path("run").iterdir()) == []


def test_run_killed_before_its_first_last_checkpoint_can_be_started_again():
    run = RunDirectory(Path("run"))
    run.checkpoints.mkdir(parents=True)
    run.best.write_bytes(b"")
    with run.locked(new=True):
        assert not run.best.exists()


@pytest.mark.parametrize("kept", ["last", "results"])
def test_new_run_does_not_replace_an_old_one(kept):
    run = RunDirectory(Path("run"))
    run.checkpoints.mkdir(parents=True)
    getattr(run, kept).write_bytes(b"")
    with pytest.raises(UserError, match=r"run contains a run\. Resume it with --resume run"), run.locked(new=True):
        pass
    with run.locked(new=False):
        pass
