"""Training, evaluation and prediction with several processes, compared with one."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.fake_corpus import write_small_corpus
from helpers.paths import QUICKSTART, ROOT
from helpers.records import Record
from pytorch_lightning import Callback, Trainer
from torch.optim import SGD, Adam

from app.callbacks.random_states import RandomStates
from app.commands.predict import every_prediction
from app.tasks import FrameClassifier, FrameRegressor, LanguageModel, SequenceClassifier
from app.tasks.regularization import Regularization
from cells import LSTM
from datamodules import TIMIT, Corpus, DataModule, Digits
from datamodules.base import TensorsDataset

pytestmark = pytest.mark.usefixtures("one_thread")  # before forks

SMALL = ["--config", QUICKSTART, "--model.hidden_size", "8", "--trainer.enable_progress_bar", "false"]
TWO = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]


class OddDigits(Digits):
    """The digits with 177 validation and 359 test images: odd numbers, for two processes."""

    def setup(self, stage=None):
        super().setup(stage)
        self.validation, self.test = (
            TensorsDataset(**part.__getitems__(range(size)))
            for part, size in ((self.validation, 177), (self.test, 359))
        )


class Letters(DataModule):
    """Padded sequences with a label at each step; odd numbers of validation and test sequences."""

    input_size, num_classes = 1, 3

    def setup(self, stage=None):
        generator = torch.Generator().manual_seed(0)
        self.train, self.validation, self.test = (
            TensorsDataset(
                inputs=torch.rand(size, 9, 1, generator=generator),
                targets=torch.randint(3, (size, 9), generator=generator),
                lengths=torch.randint(1, 10, (size,), generator=generator),
            )
            for size in (48, 13, 27)
        )


ADAM = partial(Adam, lr=0.05)
# every process draws its own dropout masks, so dropout would make the losses differ
WITHOUT_DROPOUT = Regularization(output_dropout=0, layer_dropout=0, input_dropout=0, word_dropout=0, weight_dropout=0)
TASKS = {  # what is trained on what, and the batch size of each of two processes
    "classification": (
        lambda: SequenceClassifier(LSTM, 1, 10, hidden_size=6, optimizer=ADAM),
        lambda batch_size, folder: OddDigits(batch_size=batch_size),
        100,
    ),
    "labels": (
        lambda: FrameClassifier(LSTM, 1, 3, hidden_size=6, optimizer=ADAM),
        lambda batch_size, folder: Letters(batch_size=batch_size),
        6,
    ),
    "frames": (
        lambda: FrameRegressor(LSTM, 129, 129, hidden_size=6, optimizer=ADAM, center=-20, scale=15),
        lambda batch_size, folder: TIMIT(prepared=str(folder / "features"), batch_size=batch_size),
        2,
    ),
    "language": (
        lambda: LanguageModel(LSTM, 13, 6, (6, 6), regularization=WITHOUT_DROPOUT, optimizer=partial(SGD, lr=3)),
        lambda batch_size, folder: Corpus(str(folder / "corpus"), batch_size, window=20, validation_rows=3),
        2,
    ),
}


class Report(Callback):
    """A callback that writes the metrics of each validation and test to a file."""

    def write(self, trainer, pl_module) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            figures = {name: value.item() for name, value in trainer.callback_metrics.items()}
            with Path("figures").open("a") as file:
                file.write(json.dumps(figures) + "\n")

    on_train_epoch_end = on_test_end = write


def train(name: str, processes: int, folder: Path) -> tuple[list[list[float]], list[dict[str, float]]]:
    """Train two epochs of at most four batches in float64, and test. Return all losses and metrics."""
    torch.manual_seed(0)
    make_task, make_data, batch_size = TASKS[name]
    task = make_task()
    task.double()  # at once: the trained weights come back from the processes into this object
    os.environ["RECORD"] = f"losses-of-{processes}"
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        precision="64-true",
        max_epochs=2,
        limit_train_batches=4,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RandomStates(), Record(), Report()],
    )
    data = make_data(batch_size * 2 // processes, folder)
    trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    lines = [Path(f"losses-of-{processes}-{rank}").read_text().splitlines() for rank in range(processes)]
    losses = [[float.fromhex(line.split()[1]) for line in of_rank] for of_rank in lines]
    figures = [json.loads(line) for line in Path("figures").read_text().splitlines()]
    Path("figures").unlink()
    return losses, figures


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_equal_one_with_twice_the_batch(name, small_timit, monkeypatch):
    monkeypatch.delenv("SIGNAL_AT", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    write_small_corpus(small_timit / "corpus")
    losses, figures = train(name, 2, small_timit)
    (expected,), expected_figures = train(name, 1, small_timit)
    assert len(expected) >= 4
    assert expected[-1] != expected[0]
    assert [sum(pair) / 2 for pair in zip(*losses, strict=True)] == pytest.approx(expected, rel=1e-12)
    assert len(figures) == len(expected_figures) == 3
    for found, figure in zip(figures, expected_figures, strict=True):
        assert found.keys() == figure.keys()
        validated = {name: value for name, value in figure.items() if name.startswith(("validation/", "test/"))}
        assert {name: found[name] for name in validated} == pytest.approx(validated, rel=1e-12)


def test_accuracies_of_two_processes_count_each_example_once(small_timit, monkeypatch):
    monkeypatch.delenv("SIGNAL_AT", raising=False)
    _, figures = train("classification", 2, small_timit)
    for part, size in (("validation", 177), ("test", 359)):
        counts = [found[f"{part}/accuracy"] * size for found in figures if f"{part}/accuracy" in found]
        assert counts
        assert counts == pytest.approx([round(count) for count in counts], rel=1e-12)


def gather(rank: int, folder: str) -> None:
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    own = [{"row": torch.tensor([3 * rank + row]), "name": [f"{rank}{row}"]} for row in range(3 - rank)]
    torch.save(every_prediction(own), f"{folder}/of-{rank}")


def test_predictions_of_all_processes_come_in_the_order_of_the_data(tmp_path):
    torch.multiprocessing.start_processes(gather, (str(tmp_path),), nprocs=2, start_method="fork")
    for rank in (0, 1):
        found = torch.load(tmp_path / f"of-{rank}", weights_only=True)
        assert [int(batch["row"]) for batch in found] == [0, 1, 2, 3, 4]
        assert [batch["name"][0] for batch in found] == ["00", "01", "02", "10", "11"]


def app(*options: str) -> list[str]:
    return [sys.executable, "-m", "app", *options]


def run(*command: str, within: float = 240, **environment: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | environment
    return subprocess.run(command, env=variables, timeout=within, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_run_of_two_processes_is_evaluated_by_one_with_the_same_metrics():
    options = [*SMALL, "--trainer.max_epochs", "2", "--run_dir", "run", "--data.batch_size", "32"]
    assert run(*app("fit", *options, *TWO)).returncode == 0
    assert {path.name for path in Path("run").iterdir()} == {
        "checkpoints",
        "config.yaml",
        "gradients.npz",
        "results.json",
        "tensorboard",
    }
    writers = {path.name.split(".")[-2] for path in Path("run/tensorboard").glob("events*")}
    assert len(writers) == 1, writers  # a name ends in the process and a number
    results = json.loads(Path("run/results.json").read_text())
    checkpoint = ["--ckpt_path", "run/checkpoints/best.ckpt"]
    alone = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--data.batch_size", "77"]
    for command, part in (("validate", "validation"), ("test", "test")):
        for devices in (TWO, alone):
            found = run(*app(command, *checkpoint, *devices)).stdout
            row = next(line for line in found.splitlines() if line.startswith(part))
            expected = [results[part]["loss"], results[part]["accuracy"]]
            assert [float(figure) for figure in row.split()[1:]] == pytest.approx(expected, abs=1e-4)
    tables = []
    for name, devices in (("two.csv", TWO), ("one.csv", alone)):
        assert run(*app("predict", *checkpoint, *devices, "--output", name)).returncode == 0
        with Path(name).open() as file:
            tables.append([{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)])
    assert len(tables[0]) == len(tables[1]) == 360
    for two, one in zip(*tables, strict=True):
        assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_process_that_dies_ends_the_other_in_bounded_time_with_a_message(rank):
    options = [
        *SMALL,
        "--trainer.max_epochs",
        "100",
        "--run_dir",
        "run",
        "--trainer.callbacks",
        "helpers.records.Record",
    ]
    command = app("fit", *options, *TWO)
    variables = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "RECORD": "losses", "SIGNAL_AT": f"9,25,{rank}"}
    with Path("said").open("w") as said:  # a file: a pipe would stay open as long as any process lives
        process = subprocess.Popen(command, env=os.environ | variables, stdout=said, stderr=said)
        status = process.wait(200)
    assert status != 0
    wait_for(lambda: "Resume with:  python -m app fit --resume run" in Path("said").read_text(), 60)
    recorded = Path("losses-1").read_text()
    time.sleep(5)
    assert Path("losses-1").read_text() == recorded  # nobody trains on


@pytest.mark.slow
@pytest.mark.parametrize("to", ["one", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_to_one_process_or_to_all_stops_both_after_a_checkpoint(number, to):
    options = [
        *SMALL,
        "--trainer.max_epochs",
        "1000",
        "--run_dir",
        "run",
        "--trainer.callbacks",
        "helpers.records.Record",
    ]
    variables = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "RECORD": "losses"}
    if to == "one":
        variables["SIGNAL_AT"] = f"{int(number)},25,1"
    with Path("said").open("w") as said:
        process = subprocess.Popen(
            app("fit", *options, *TWO), env=os.environ | variables, stdout=said, stderr=said, start_new_session=True
        )
        if to == "group":
            wait_for(lambda: Path("losses-1").exists() and Path("losses-1").read_text().count("\n") > 20, 200)
            os.killpg(process.pid, number)
        status = process.wait(200)
    assert status == 128 + number, Path("said").read_text()
    assert f"stopped by {number.name} after step" in Path("said").read_text()
    assert "Traceback" not in Path("said").read_text()
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] > 20


def start_two_with_a_frozen_second(*options: str) -> tuple[subprocess.Popen, int]:
    """Return a run of two processes of which the second was stopped by SIGSTOP in step 10, and its process id."""
    record = ["--trainer.callbacks", "helpers.records.Record"]
    command = app("fit", *SMALL, "--trainer.max_epochs", "1000", "--run_dir", "run", *record, *TWO, *options)
    variables = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "RECORD": "losses"}
    variables["SIGNAL_AT"] = f"{int(signal.SIGSTOP)},10,1"
    with Path("said").open("w") as said:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=said, stderr=said)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    begun = Path("losses-1")
    wait_for(lambda: process.poll() is not None or (begun.exists() and begun.read_text().count("\n") >= 10), 200)
    assert process.poll() is None, Path("said").read_text()
    (frozen,) = map(int, children.read_text().split())
    wait_for(lambda: Path(f"/proc/{frozen}/stat").read_text().rpartition(")")[2].split()[0] == "T", 60)
    return process, frozen


@pytest.mark.slow
def test_frozen_process_ends_the_other_after_the_timeout_with_a_message():
    process, frozen = start_two_with_a_frozen_second("--collective_timeout", "1")  # long enough to start
    try:
        assert process.wait(180) == 4, Path("said").read_text()
        assert "rank 0 of 2 lost another process. Resume with:" in Path("said").read_text()
        assert "Traceback" not in Path("said").read_text()
        os.kill(frozen, signal.SIGCONT)
        wait_for(lambda: not Path(f"/proc/{frozen}").exists(), 60)
    finally:
        process.kill()


@pytest.mark.slow
def test_second_signal_ends_a_process_that_waits_for_a_frozen_one():
    process, frozen = start_two_with_a_frozen_second()
    try:
        time.sleep(2)  # the first process is now blocked in a collective operation
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: "a second signal ends at once" in Path("said").read_text(), 20)
        time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        os.kill(frozen, signal.SIGCONT)
        wait_for(lambda: not Path(f"/proc/{frozen}").exists(), 60)
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_torchrun_with_two_nodes_on_loopback_trains_the_quick_start():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for node in (0, 1):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        command += ["--node_rank", str(node), "--master_addr", "127.0.0.1", "--master_port", str(port), "-m", "app"]
        options = ["fit", "--config", QUICKSTART, "--trainer.enable_progress_bar", "false", "--run_dir", "run"]
        options += ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "2"]
        options += ["--trainer.strategy", "ddp", "--data.batch_size", "32"]
        nodes.append(subprocess.Popen([*command, *options], env=os.environ | {"PYTHONPATH": str(ROOT)}))
    try:
        assert [node.wait(900) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    assert json.loads(Path("run/results.json").read_text())["test"]["accuracy"] >= 0.93


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
