"""Resumed runs are bitwise identical to uninterrupted ones; what contradicts the run is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.paths import QUICKSTART, ROOT
from helpers.records import losses
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.commands.main import main
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from app.runs.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")  # before forks

SHORT = ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", "helpers.records.Record"]
SHORT += ["--probe_every", "3"]
DIGITS = ["--config", QUICKSTART, "--model.hidden_size", "8", "--data.batch_size", "300", "--trainer.max_epochs", "3"]
DTRIV = ["--model.cell", "MomentumDTRIV", "--model.cell.rebase_every", "3"]
FRAMES = [
    "--config",
    str(ROOT / "configs/timit/sample.yaml"),
    "--data.split",
    "official",
    "--data.prepared",
    "FEATURES",
]
LANGUAGE = ["--config", str(ROOT / "configs/ptb/small.yaml"), "--data.root", "CORPUS", "--model.embedding_size", "8"]
LANGUAGE += [
    "--model.hidden_sizes",
    "[8]",
    "--model.adaptive_cutoffs",
    "[4, 8]",
    "--model.regularization.weight_dropout",
    "0.3",
]
CASES = {
    "classification": DIGITS,
    "frames": [*FRAMES, "--model.hidden_size", "6", "--data.batch_size", "3", "--trainer.max_epochs", "3"],
    "language": [*LANGUAGE, "--data.batch_size", "4", "--trainer.max_epochs", "3"],
    "dtriv": [*DIGITS, *DTRIV, "--model.orthogonal_optimizer", "RMSprop", "--model.orthogonal_optimizer.lr", "1e-3"],
}
FAST = "classification"
TWO = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture
def places(small_timit, trained_language_model) -> dict[str, str]:
    """Return the directories that replace the placeholders in CASES."""
    return {"FEATURES": str(small_timit / "features"), "CORPUS": str(trained_language_model.parent / "data")}


def options_of(case: str, places: dict[str, str]) -> list[str]:
    return [places.get(option, option) for option in CASES[case]]


def fit_apart(*options: str, record: str = "losses", signal_at: str = "0,-1,-1") -> int:
    """Return the exit status of ``fit`` in a separate process, which may be killed."""

    def work() -> None:
        os.environ |= {"RECORD": record, "SIGNAL_AT": signal_at}
        sys.exit(main(["fit", *options]))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def start(*options: str, record: str = "losses", signal_at: str = "0,-1,-1") -> subprocess.Popen:
    """Start ``python -m app fit`` as a process; with TWO, as two."""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "RECORD": record, "SIGNAL_AT": signal_at}
    command = [sys.executable, "-m", "app", "fit", *options]
    return subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen, within: float = 600) -> tuple[int, str]:
    """Return exit status and standard error of a process that ends within ``within`` seconds."""
    try:
        return process.wait(within), process.stderr.read()
    finally:
        process.kill()


def assert_equal_runs(first: str, second: str) -> None:
    """Check that everything the runs left is equal, except for times and throughput.

    These are weights, optimizers, schedules, positions in the data, results, gradients through time, and the curves,
    images and texts in TensorBoard.
    """
    left, right = (read_checkpoint(Path(run, "checkpoints/last.ckpt")) for run in (first, second))
    for state in (left, right):
        state.pop("callbacks")  # paths and seconds
        del state["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]  # which nothing reads between epochs
    assert_equal(left, right)
    results = [json.loads(Path(run, "results.json").read_text()) for run in (first, second)]
    for found in results:
        del found["seconds"]
    assert results[0] == results[1]
    files = [sorted(path.name for path in Path(run).iterdir()) for run in (first, second)]
    assert files[0] == files[1]
    arrays = [dict(np.load(Path(run, "gradients.npz"))) for run in (first, second)]
    assert_equal(*({name: array.tobytes() for name, array in of_run.items()} for of_run in arrays))
    assert_equal(*(shown_in_tensorboard(run) for run in (first, second)))


class Shown(EventAccumulator):
    """Discards texts, too, from the step on at which a run was resumed."""

    def _Purge(self, event, by_tags):  # noqa: N802  # the name in TensorBoard
        super()._Purge(event, by_tags)
        self.tensors.FilterItems(lambda tensor: tensor.step < event.step)


def shown_in_tensorboard(run: str) -> dict[str, list]:
    """Return steps and values of each curve, and the steps of images and texts, by tag."""
    events = Shown(str(Path(run, "tensorboard")), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    curves = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    shown = {tag: [image.step for image in events.Images(tag)] for tag in tags["images"]}
    shown |= {tag: [tensor.step for tensor in events.Tensors(tag)] for tag in tags["tensors"]}
    return {tag: found for tag, found in (curves | shown).items() if "throughput" not in tag}


def assert_equal(left, right, where: str = "") -> None:
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for name in left:
            assert_equal(left[name], right[name], f"{where}.{name}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_equal(*pair, f"{where}.{number}")
    elif isinstance(left, torch.Tensor):
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True, msg=where)
    else:
        assert left == right, where


def curve(run: str, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(Path(run, "tensorboard")))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.parametrize(
    "case", [FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != FAST)]
)
def test_killed_run_resumes_bitwise_identical(case, places):
    """The run is killed twice within an epoch, the second time before the next checkpoint."""
    assert fit_apart(*options_of(case, places), *SHORT, "--run_dir", "whole", record="whole-losses") == 0
    steps = len(losses("whole-losses"))
    killed_at = random.Random(case).randrange(steps // 3 + 1, steps)
    options = [*options_of(case, places), *SHORT, "--run_dir", "run", "--save_every", "2"]
    assert fit_apart(*options, signal_at=f"{signal.SIGKILL},{killed_at},0") == -signal.SIGKILL
    assert fit_apart("--resume", "run", signal_at=f"{signal.SIGKILL},{killed_at},0") == -signal.SIGKILL
    assert fit_apart("--resume", "run") == 0
    assert losses("losses") == losses("whole-losses")
    assert_equal_runs("whole", "run")
    for name in ("train/loss", "validation/loss"):
        assert curve("run", name) == curve("whole", name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", CASES)
def test_run_killed_at_any_time_resumes_bitwise_identical(case, places):
    """The run is killed repeatedly, each time within half a second after a step."""
    assert ended(start(*options_of(case, places), *SHORT, "--run_dir", "whole", record="whole-losses"))[0] == 0
    options, times, log = [*options_of(case, places), *SHORT, "--run_dir", "run"], random.Random(case), Path("losses-0")
    for _ in range(6):
        size = log.stat().st_size if log.exists() else 0
        process = start(*options, "--save_every", "1")
        while process.poll() is None and not (log.exists() and log.stat().st_size > size):
            time.sleep(0.01)
        time.sleep(times.uniform(0, 0.5))
        process.kill()
        process.wait()
        if Path("run/checkpoints/last.ckpt").exists():
            options = ["--resume", "run"]
    assert ended(start(*options))[0] == 0
    assert losses("losses") == losses("whole-losses")
    assert_equal_runs("whole", "run")
    assert {path.name for path in Path("run/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", CASES)
def test_two_killed_processes_resume_bitwise_identical(case, places):
    options = [*options_of(case, places), *SHORT, *TWO]
    assert ended(start(*options, "--run_dir", "whole", record="whole-losses"))[0] == 0
    killed = f"{signal.SIGKILL},{len(losses('whole-losses')) - 2},1"  # the last step but one, of the second process
    status, said = ended(start(*options, "--run_dir", "run", "--save_every", "2", signal_at=killed))
    assert status != 0
    assert "--resume run" in said
    assert ended(start("--resume", "run"))[0] == 0
    for rank in (0, 1):
        assert losses("losses", rank) == losses("whole-losses", rank)
    assert_equal_runs("whole", "run")


@pytest.mark.parametrize("batch", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_run_killed_in_its_test_phase_resumes_with_the_same_files(batch):
    """The training is complete, so that resuming it only shows the last figures and evaluates the best epoch."""
    assert fit_apart(*DIGITS, *SHORT, "--run_dir", "whole", record="whole-losses") == 0
    killed_at = f"{signal.SIGKILL},{-2 - batch},0"
    assert fit_apart(*DIGITS, *SHORT, "--run_dir", "run", signal_at=killed_at) == -signal.SIGKILL
    assert not Path("run/results.json").exists()
    assert fit_apart("--resume", "run") == 0
    assert_equal_runs("whole", "run")


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_signal_stops_after_a_checkpoint(number, capfd):
    options = [*DIGITS, *SHORT]
    assert fit_apart(*options, "--run_dir", "whole", record="whole-losses") == 0
    assert fit_apart(*options, "--run_dir", "run", signal_at=f"{number},7,0") == 128 + number
    said = capfd.readouterr().out
    assert f"stopped by {number.name} after step 8. Resume with:  python -m app fit --resume run" in said
    assert read_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 8
    assert fit_apart("--resume", "run") == 0
    assert losses("losses") == losses("whole-losses")
    assert_equal_runs("whole", "run")


def test_signal_at_the_end_of_training_stops_before_the_test_phase():
    assert fit_apart(*DIGITS, *SHORT, "--run_dir", "whole", record="whole-losses") == 0
    assert fit_apart(*DIGITS, *SHORT, "--run_dir", "run", signal_at=f"{signal.SIGTERM},-1,0") == 128 + signal.SIGTERM
    assert not Path("run/results.json").exists()
    assert fit_apart("--resume", "run") == 0
    assert_equal_runs("whole", "run")


@pytest.mark.slow
def test_signal_in_the_last_batch_of_an_epoch_waits_for_its_end():
    assert fit_apart(*DIGITS, *SHORT, "--run_dir", "run", signal_at=f"{signal.SIGTERM},4,0") == 128 + signal.SIGTERM
    assert read_checkpoint(Path("run/checkpoints/last.ckpt"))["Digits"]["epoch"] == 1
    assert curve("run", "validation/loss")


@pytest.fixture
def stopped(trained) -> Path:
    """A copy of a finished run, which can be resumed like one stopped after its last epoch."""
    shutil.copytree(trained, "stopped")
    return Path("stopped")


def test_limits_may_change_and_directory_may_move(stopped):
    best = stopped / "checkpoints/best.ckpt"
    shutil.copytree(stopped, "other")
    config = yaml.safe_load((stopped / "config.yaml").read_text())
    config["model"]["init_args"]["lr_schedule"] = "constant"
    (stopped / "config.yaml").write_text(yaml.safe_dump(config))
    last = stopped / "checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["hyper_parameters"]["lr_schedule"] = "constant"
    torch.save(checkpoint, last)
    score = json.loads((stopped / "results.json").read_text())["validation"]["loss"]
    checkpoint = torch.load(stopped / "checkpoints/last.ckpt", weights_only=True)
    assert main(["fit", "--resume", "stopped", "--trainer.max_epochs", "2"]) == 0
    assert json.loads((stopped / "results.json").read_text())["validation"]["loss"] == pytest.approx(score)
    state = next(state for name, state in checkpoint["callbacks"].items() if "BestCheckpoint" in name)
    assert state["dirpath"] != str(best.parent.resolve())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.hidden_size", "17"], "model.init_args.hidden_size is 17, but 16 in the run"),
        (["--model.optimizer.lr", "0.5"], "model.init_args.optimizer.init_args.lr is 0.5, but 0.02 in the run"),
        (
            ["--model.cell", "GRU"],
            "model.init_args.cell.class_path is 'cells.GRU', but 'cells.MomentumLSTM' in the run",
        ),
        (["--model.orthogonal_optimizer", "SGD", "--model.orthogonal_optimizer.lr", "1"], "orthogonal_optimizer"),
        (["--data.batch_size", "7"], "data.init_args.batch_size is 7, but 64 in the run"),
        (["--seed_everything", "5"], "seed_everything is 5, but 0 in the run"),
        (["--trainer.precision", "bf16-mixed"], "trainer.precision is 'bf16-mixed', but None in the run"),
        (
            ["--trainer.max_epochs", "9"],
            "trainer.max_epochs is 9, but 2 in the run (the schedule one_cycle spans the whole run",
        ),
        (["--config", QUICKSTART], "cannot be combined with --resume"),
        (["--run_dir", "elsewhere"], "cannot be combined with --resume"),
        (["--ckpt_path", "elsewhere.ckpt"], "ckpt_path 'elsewhere.ckpt' is not a checkpoint of the run"),
    ],
)
def test_options_that_contradict_the_run_are_refused(options, message, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert main(["fit", "--resume", str(trained), *options]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_another_number_of_processes_is_refused(stopped, capsys):
    checkpoint = torch.load(stopped / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["Digits"]["processes"] = 2
    torch.save(checkpoint, stopped / "checkpoints/last.ckpt")
    assert main(["fit", "--resume", "stopped"]) == 2
    assert "processes must be 2, got 1" in capsys.readouterr().err


def test_directory_without_a_run_cannot_be_resumed(stopped, capsys):
    assert main(["fit", "--resume", "nowhere"]) == 2
    assert "resume: 'nowhere' is not a run directory (nowhere/config.yaml does not exist)" in capsys.readouterr().err
    assert main(["fit", "--config", QUICKSTART, "--ckpt_path", "stopped/checkpoints/best.ckpt"]) == 2
    assert "fit accepts --ckpt_path ('stopped/checkpoints/best.ckpt') only with --resume" in capsys.readouterr().err


def flipped(whole: bytes) -> bytes:
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [None, lambda whole: whole[: len(whole) // 2], lambda whole: b"", flipped, lambda whole: b"a foreign file"],
    ids=["missing", "truncated", "empty", "a flipped bit", "foreign"],
)
def test_damaged_last_checkpoint_is_detected_and_another_one_offered(damage, stopped, capsys):
    last, previous = stopped / "checkpoints/last.ckpt", stopped / "checkpoints/previous.ckpt"
    if damage is None:
        last.unlink()
    else:
        last.write_bytes(damage(last.read_bytes()))  # previous.ckpt is another file, not another name of this one
    assert main(["fit", "--resume", "stopped"]) == 2
    said = capsys.readouterr().err
    assert str(last) in said
    assert f"{previous} is undamaged (step 20). Add --ckpt_path {previous}." in said
    if damage is flipped:
        assert main(["fit", "--resume", "stopped", "--ckpt_path", str(previous)]) == 0
        assert read_checkpoint(last)["global_step"] == 40


class Code:
    """An object whose unpickling runs a function."""

    def __reduce__(self):
        return os.mkdir, ("made_by_a_checkpoint",)


def test_checkpoint_cannot_run_code(stopped, capsys):
    checkpoint = torch.load(stopped / "checkpoints/last.ckpt", weights_only=True)
    torch.save({**checkpoint, "code": Code()}, stopped / "checkpoints/last.ckpt")
    for command in (["fit", "--resume", "stopped"], ["test", "--ckpt_path", "stopped/checkpoints/last.ckpt"]):
        assert main(command) == 2
        assert "it contains more than tensors and plain data" in capsys.readouterr().err
    assert not Path("made_by_a_checkpoint").exists()


def test_message_if_every_checkpoint_is_damaged(stopped, capsys):
    for path in (stopped / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert main(["fit", "--resume", "stopped"]) == 2
    assert "The run has no other undamaged checkpoint" in capsys.readouterr().err


def test_every_flipped_bit_that_matters_is_detected(trained):
    """A flipped bit is refused, or it lies in the padding of the file and the contents are equal."""
    path = Path("flipped.ckpt")
    whole = (trained / "checkpoints/best.ckpt").read_bytes()
    path.write_bytes(whole)
    good, draw = read_checkpoint(path), random.Random(0)
    refused = 0
    for _ in range(300):
        at, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        try:
            read = read_checkpoint(path)
        except UserError:
            refused += 1
        else:
            assert_equal(read, good)
    assert refused > 150


@pytest.mark.slow
def test_raised_limit_resumes_within_the_epoch():
    """Seven steps, resumed up to twelve, equal twelve at once: the rest of the second epoch is not skipped."""
    options = [*DIGITS, *SHORT, "--model.lr_schedule", "constant", "--trainer.max_epochs", "-1"]
    assert fit_apart(*options, "--run_dir", "whole", "--trainer.max_steps", "12", record="whole-losses") == 0
    assert fit_apart(*options, "--run_dir", "run", "--trainer.max_steps", "7") == 0
    assert fit_apart("--resume", "run", "--trainer.max_steps", "12") == 0
    assert losses("losses") == losses("whole-losses")
    left, right = (read_checkpoint(Path(run, "checkpoints/last.ckpt"))["state_dict"] for run in ("whole", "run"))
    assert_equal(left, right)


@pytest.mark.slow
def test_full_disk_gives_one_line_and_loses_nothing(capfd):
    """From the second epoch on, the limit on the size of files is below that of a checkpoint."""
    options = [*DIGITS, *SHORT, "--model.cell", "LSTM", "--model.hidden_size", "32"]
    assert fit_apart(*options, "--run_dir", "whole", record="whole-losses") == 0
    assert fit_apart(*options, "--run_dir", "run", signal_at=f"{signal.SIGTERM},6,0") == 128 + signal.SIGTERM
    before = {path.name: path.read_bytes() for path in Path("run/checkpoints").iterdir()}
    size = len(before["last.ckpt"])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, hard))
    try:
        assert fit_apart("--resume", "run") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    said = capfd.readouterr().err
    assert f"cannot be written: File too large. Correct this and resume with --resume {Path('run').resolve()}." in said
    assert "Traceback" not in said
    after = {path.name: path.read_bytes() for path in Path("run/checkpoints").iterdir()}
    assert after["last.ckpt"] == before["last.ckpt"]
    assert after["best.ckpt"] == before["best.ckpt"]
    assert fit_apart("--resume", "run") == 0
    assert losses("losses") == losses("whole-losses")
    assert_equal_runs("whole", "run")


def test_configuration_of_another_version_gives_one_line(stopped, capsys):
    config = yaml.safe_load((stopped / "config.yaml").read_text())
    config["model"]["init_args"]["colour"] = "red"
    (stopped / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--resume", "stopped"]) == 2
    said = capsys.readouterr().err
    assert "SequenceClassifier has no argument 'colour'" in said
    assert "It is in stopped/config.yaml, which another version of the program may have written" in said
    del config["model"]["init_args"]["colour"], config["model"]["init_args"]["choose_by"], config["save_every"]
    config["model"]["init_args"]["lr_schedule"] = "one_cycle"
    (stopped / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "--ckpt_path", "stopped/checkpoints/best.ckpt"]) == 0


def test_run_without_a_checkpoint_can_be_started_again():
    RunDirectory(Path("run")).path.mkdir()
    Path("run/config.yaml").write_text("seed_everything: 0\n")
    assert main(["fit", *DIGITS, "--trainer.max_epochs", "1", "--run_dir", "run"]) == 0
