"""Workers, their queue, and what happens when they are killed. A fake ``fit`` takes a moment."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from app.lab.directory import StudyDirectory

PLANNED = 2 * (3 + 3)  # two cells, three trials, three reporting seeds


def finish(start_worker, study, count=1, **options) -> None:
    workers = [start_worker(study, **options) for _ in range(count)]
    assert [worker.wait(120) for worker in workers] == [0] * count


def starts(path: Path) -> list[tuple[str, int]]:
    """Name and first epoch of each start, in order."""
    return [(line.split()[0], int(line.split()[1])) for line in path.read_text().splitlines()]


def everything(directory: Path) -> dict[str, object]:
    """What a study says, without times."""
    study = StudyDirectory(directory)
    found: dict[str, object] = {}
    for path in sorted((directory / "plan").glob("*/*/*.json")):
        run = path.stem
        outcome = study.outcome(run)
        assert outcome is not None
        found[str(path.relative_to(directory))] = (outcome.status, outcome.value, study.results(run), study.curves(run))
    return found


def test_study_runs_every_planned_run_once(write_study, start_worker, tmp_path):
    finish(start_worker, write_study(), count=2)
    counts = Counter(run for run, _ in starts(tmp_path / "times"))
    assert len(counts) == PLANNED
    assert set(counts.values()) == {1}
    assert len(everything(tmp_path / "study")) == PLANNED


def test_best_configuration_is_reported_with_the_reporting_seeds(write_study, open_study, start_worker):
    study = write_study()
    finish(start_worker, study)
    laboratory = open_study(study)
    for arm in laboratory.arms:
        tuning = laboratory.directory.planned(arm.folder, "tuning")
        best = min(tuning, key=lambda planned: laboratory.directory.outcome(planned.run).value)
        reporting = laboratory.directory.planned(arm.folder, "reporting")
        assert [planned.seed for planned in reporting] == [0, 1, 2]
        assert all(planned.drawn == best.drawn for planned in reporting)


def test_finished_study_starts_nothing_again(write_study, start_worker, tmp_path):
    study = write_study()
    finish(start_worker, study)
    before = starts(tmp_path / "times")
    finish(start_worker, study)
    assert starts(tmp_path / "times") == before


@pytest.mark.slow
def test_larger_budget_keeps_the_runs_that_exist(write_study, start_worker, tmp_path):
    finish(start_worker, write_study())
    first = starts(tmp_path / "times")
    finish(start_worker, write_study(budget={"trials": 5, "epochs": 4}))
    counts = Counter(run for run, _ in starts(tmp_path / "times"))
    assert set(counts.values()) == {1}
    tuning = {path.stem for path in (tmp_path / "study/plan").glob("*/tuning/*.json")}
    assert len(tuning) == 2 * 5
    assert len({run for run, _ in first} & tuning) == 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_workers_leave_every_run_exactly_once(write_study, start_worker, tmp_path, seed):
    study = write_study()
    finish(start_worker, study, directory="undisturbed")
    (tmp_path / "times").unlink()
    drawn = random.Random(seed)
    slow = {"EPOCH_SECONDS": "0.1"}
    for _ in range(5):
        workers = [start_worker(study, environment=slow) for _ in range(2)]
        time.sleep(drawn.uniform(1.0, 3.0))
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    finish(start_worker, study, count=2)
    assert everything(tmp_path / "study") == everything(tmp_path / "undisturbed")
    last_epochs = Counter(starts(tmp_path / "times"))
    assert max(last_epochs.values()) <= 6, "no run may start from the same epoch in two workers at a time"


def test_killed_run_is_resumed_from_its_checkpoint(write_study, start_worker, tmp_path):
    study = write_study()
    worker = start_worker(study, environment={"EPOCH_SECONDS": "3"})  # longer than a busy machine takes to end it
    wait_until(lambda: list((tmp_path / "study").glob("runs/*/curves.json")))
    worker.kill()
    worker.wait()
    finish(start_worker, study)
    again = [run for run, epoch in starts(tmp_path / "times") if epoch > 0]
    assert len(again) == 1
    outcome = StudyDirectory(tmp_path / "study").outcome(again[0])
    assert (outcome.status, outcome.starts) == ("complete", 2)


def test_run_whose_worker_died_after_its_results_is_not_started_again(write_study, start_worker, tmp_path):
    study = write_study()
    finish(start_worker, study)
    before = starts(tmp_path / "times")
    directory = StudyDirectory(tmp_path / "study")
    (run,) = [planned.run for planned in directory.planned("LSTM", "reporting") if planned.seed == 1]
    value = directory.outcome(run).value
    (tmp_path / f"study/outcomes/{run}.json").unlink()
    finish(start_worker, study)
    assert starts(tmp_path / "times") == before
    assert directory.outcome(run).value == value


def test_run_stays_locked_while_its_training_outlives_the_worker(write_study, start_worker, tmp_path):
    from app.lab.locks import is_locked

    study = write_study()
    worker = start_worker(study, environment={"EPOCH_SECONDS": "0.5"})
    wait_until(lambda: (tmp_path / "times").exists())
    run, _, pid = (tmp_path / "times").read_text().split()
    lock = StudyDirectory(tmp_path / "study").lock(run)
    assert is_locked(lock)
    worker.kill()
    worker.wait()
    assert is_locked(lock) == Path(f"/proc/{pid}").exists()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert not is_locked(lock)


def test_stopped_worker_leaves_a_checkpoint_and_its_status(write_study, start_worker, tmp_path):
    study = write_study()
    worker = start_worker(study, environment={"EPOCH_SECONDS": "0.3"})
    wait_until(lambda: (tmp_path / "times").exists())
    worker.terminate()
    assert worker.wait(30) == 128 + signal.SIGTERM
    run, _ = starts(tmp_path / "times")[0]
    assert (tmp_path / f"study/runs/{run}/checkpoints/last.ckpt").exists()
    assert StudyDirectory(tmp_path / "study").outcome(run) is None


def test_failed_diverged_and_lost_runs_are_named_and_the_study_ends(write_study, start_worker, tmp_path):
    rates = {"choice": [0.01, 0.7, 0.8, 0.9]}
    study = write_study(cells={"LSTM": {}}, shared={"model.optimizer.lr": rates}, sampler="grid", budget={"epochs": 4})
    finish(start_worker, study)
    directory = StudyDirectory(tmp_path / "study")
    outcomes = {
        planned.values["model.optimizer.lr"]: directory.outcome(planned.run)
        for planned in directory.planned("LSTM", "tuning")
    }
    assert outcomes[0.01].status == "complete"
    assert (outcomes[0.7].status, outcomes[0.7].message) == ("failed", "the data are missing")
    assert (outcomes[0.8].status, outcomes[0.8].message) == ("diverged", "the gradients are not finite")
    assert outcomes[0.9].status == "failed"
    assert "last.ckpt is missing" in outcomes[0.9].message
    assert len(directory.planned("LSTM", "reporting")) == 3


def test_retry_starts_failed_runs_from_scratch(write_study, open_study, start_worker, tmp_path):
    rates = {"choice": [0.01, 0.7]}
    study = write_study(cells={"LSTM": {}}, shared={"model.optimizer.lr": rates}, sampler="grid", budget={"epochs": 4})
    finish(start_worker, study)
    assert open_study(study).planner.retry_failed() == 1
    finish(start_worker, study)
    assert len(starts(tmp_path / "times")) == 1 + 1 + 3 + 1
    assert len(list((tmp_path / "study/discarded").iterdir())) == 1


@pytest.mark.slow
def test_tpe_runs_its_budget_with_two_workers(write_study, start_worker, tmp_path):
    finish(start_worker, write_study(sampler="tpe", budget={"trials": 4, "epochs": 4}), count=2)
    directory = StudyDirectory(tmp_path / "study")
    for arm in ("LSTM", "MomentumLSTM"):
        assert len(directory.planned(arm, "tuning")) == 4
        assert len(directory.planned(arm, "reporting")) == 3


@pytest.mark.slow
def test_pruning_stops_hopeless_trials_and_never_reporting_runs(write_study, start_worker, tmp_path):
    study = write_study(pruning=True, budget={"trials": 8, "epochs": 4})
    finish(start_worker, study, environment={"EPOCH_SECONDS": "0.1"})
    directory = StudyDirectory(tmp_path / "study")
    statuses = {phase: Counter() for phase in ("tuning", "reporting")}
    for path in (tmp_path / "study/plan").glob("*/*/*.json"):
        statuses[path.parent.name][directory.outcome(path.stem).status] += 1
    assert statuses["tuning"]["pruned"] > 0
    assert statuses["tuning"]["complete"] > 0
    assert set(statuses["reporting"]) == {"complete"}


def test_same_configuration_of_two_arms_runs_once(write_study, start_worker, tmp_path):
    """A control without momentum has one configuration for all values of the momentum of its parent."""
    cells = {"MomentumLSTM": {"momentum": {"choice": [0.0, 0.5]}, "step_size": 1.0}}
    shared = {"model.optimizer.lr": 0.01, "model.hidden_size": 4}
    study = write_study(cells=cells, shared=shared, sampler="grid", budget={"epochs": 4}, controls="auto")
    finish(start_worker, study, count=2)
    counts = Counter(run for run, _ in starts(tmp_path / "times"))
    assert set(counts.values()) == {1}
    directory = StudyDirectory(tmp_path / "study")
    plan = json.loads((tmp_path / "study/checked.json").read_text())["arms"]
    assert [arm["control"] for arm in plan] == [None, "no_momentum", "same_gain"]
    assert len(directory.planned("MomentumLSTM_no_momentum", "tuning")) == 1


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
