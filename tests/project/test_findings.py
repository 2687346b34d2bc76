"""The tables of the findings: computed from run tables of studies, with statistics that scipy confirms."""

from __future__ import annotations

import csv
import importlib.util
from statistics import fmean, median, stdev

import numpy as np
import pytest
from helpers.paths import ROOT
from scipy import stats

from app.lab.reading import read_study

DATA = ROOT / "docs/findings/data"
STUDIES = [path.stem for path in sorted(DATA.glob("*.csv")) if (ROOT / f"configs/studies/{path.stem}.yaml").is_file()]


def load_study_tables():
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("study_tables", ROOT / "docs/study_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs_of(study: str, arm: str) -> list[dict[str, str]]:
    with (DATA / f"{study}.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["arm"] == arm and row["phase"] == "reporting"]


def metric_of(study: str) -> str:
    """A metric of the runs of a study."""
    columns = runs_of(study, arms_of(study)[0])[0]
    return next(metric for metric in ("accuracy", "perplexity", "loss") if f"test/{metric}" in columns)


def arms_of(study: str) -> list[str]:
    with (DATA / f"{study}.csv").open(newline="") as file:
        return list(dict.fromkeys(row["arm"] for row in csv.DictReader(file)))


@pytest.mark.parametrize("study", STUDIES)
def test_run_table_has_every_cell_and_seed_of_its_study(study):
    planned = read_study(ROOT / f"configs/studies/{study}.yaml")
    assert {cell.label for cell in planned.cells} <= set(arms_of(study))
    for arm in arms_of(study):
        assert [int(row["seed"]) for row in runs_of(study, arm)] == list(planned.reporting_seeds)


@pytest.mark.parametrize("study", STUDIES)
def test_results_equal_mean_and_standard_deviation(study):
    tables = load_study_tables()
    runs, metric = tables.reporting_runs(study), metric_of(study)
    for row in tables.StudyResults.rows(None, runs, metric, [])[1:]:
        values = [float(run[f"test/{metric}"]) for run in runs_of(study, row[0]) if run[f"test/{metric}"]]
        assert row[-1] == f"{fmean(values):.4g} ± {stdev(values):.2g}"


@pytest.mark.parametrize("study", [study for study in STUDIES if len(arms_of(study)) > 1])
def test_comparisons_equal_scipy(study):
    tables = load_study_tables()
    runs, metric = tables.reporting_runs(study), metric_of(study)
    first, second = arms_of(study)[:2]
    pair = [{int(run["seed"]): float(run[f"test/{metric}"]) for run in runs_of(study, arm) if run[f"test/{metric}"]}
            for arm in (second, first)]  # fmt: skip
    seeds = sorted(pair[0].keys() & pair[1].keys())
    a, b = ([values[seed] for seed in seeds] for values in pair)
    (row,) = tables.StudyComparisons.rows(None, runs, metric, [f"{second} - {first}"])[1:]
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    exact = stats.permutation_test((np.subtract(a, b),), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert row[1:5] == [
        str(len(seeds)),
        f"{fmean(np.subtract(a, b)):.2g}",
        f"[{low:.2g}, {high:.2g}]",
        f"{exact.pvalue:.2g}",
    ]


def test_cost_of_a_target_is_a_median_in_which_unreached_counts_as_infinite():
    tables = load_study_tables()
    runs = [
        {
            "arm": "A",
            "parameters": "10",
            "loss <= 1: epochs": epochs,
            "loss <= 1: seconds": "2",
            "loss <= 1: FLOPs": "3e12",
        }
        for epochs in ("4", "", "6")
    ]
    (row,) = tables.StudyCosts.rows(None, runs, "loss <= 1", [])[1:]
    assert row == ["A", "2 of 3", f"{median([4, 6, np.inf]):g}", "2", "3", "10"]
    with pytest.raises(ValueError, match="loss <= 2: epochs is no column"):
        tables.StudyCosts.rows(None, runs, "loss <= 2", [])
