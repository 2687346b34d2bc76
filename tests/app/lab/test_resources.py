"""Cores and GPUs of a machine are divided among workers; files for clusters start workers."""

from __future__ import annotations

import pytest
import yaml
from helpers.paths import ROOT

from app.commands.main import main
from app.lab import resources


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 2, "4"), (2, 2, "1"), (2, 3, "1"), (7, 2, "3")])
def test_cores_are_divided(monkeypatch, cores, workers, threads):
    monkeypatch.setattr(resources, "cores", lambda: cores)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for worker in range(workers):
        assert resources.share(worker, workers) == {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def test_each_worker_gets_one_gpu_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5,7")
    given = [resources.share(worker, 4)["CUDA_VISIBLE_DEVICES"] for worker in range(4)]
    assert given == ["2", "GPU-5", "7", "2"]


def test_job_of_kubernetes_starts_workers_of_a_study_that_exists(capsys):
    job = yaml.safe_load((ROOT / "deploy/kubernetes/study.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "--worker" in container["args"]
    assert main([*container["args"], "--status"]) == 2
    assert "there is no study in" in capsys.readouterr().err
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert job["spec"]["completionMode"] == "Indexed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.yaml"], "the study must be a file, got 'missing.yaml'"),
        (["configs/studies/momentum_digits.yaml", "--status"], "start it without --status"),
        (["configs/studies/momentum_digits.yaml", "--retry", "all"], "retry"),
        (["configs/studies/momentum_digits.yaml", "--workers", "0"], "workers"),
        (
            ["configs/studies/momentum_digits.yaml", "--worker", "--storage", "sqlite:///x.db"],
            "storage must be a server",
        ),
        (["configs/studies/momentum_digits.yaml", "--worker", "--storage", "nowhere://x"], "cannot be used"),
    ],
)
def test_mistake_in_the_options_is_named(options, message, capsys):
    assert main(["sweep", *options]) == 2
    assert message in capsys.readouterr().err


def test_mistakes_of_a_study_are_printed_one_to_a_line(write_study, capsys):
    study = write_study(sampler="bayes", match="time")
    assert main(["sweep", str(study)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {study} has 2 mistakes:"
    assert [line.split()[0] for line in lines[1:]] == ["sampler", "match"]
