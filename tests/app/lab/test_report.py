"""Reports of studies whose runs are made up, so that every number is known."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
import pytest
from helpers.paths import ROOT
from scipy import stats

from app.commands.main import main
from app.lab.directory import Outcome, StudyDirectory
from app.lab.figures import pictures
from app.lab.gathering import gather, published, tuning_values
from app.lab.laboratory import Laboratory
from app.lab.reading import read_study
from app.lab.tables import comparisons, cost_of, results_table, sensitivity_table, target_table

CELLS = {
    "LSTM": {},
    "MomentumLSTM": {"momentum": {"uniform": [0.1, 0.9]}, "step_size": {"log_uniform": [0.2, 2.0]}},
}
SEEDS = {"tuning": [100], "reporting": [0, 1, 2, 3, 4]}
FAILED, DIVERGED = 1, 2  # numbers of the tuning points of MomentumLSTM that did not complete


def accuracy(arm: str, seed: int) -> float:
    """Test accuracy of a reporting run."""
    return 0.8 + 0.05 * (arm == "MomentumLSTM") + 0.02 * np.random.RandomState(seed + len(arm)).random_sample()


def end(directory: StudyDirectory, run: str, loss: float, test: float) -> None:
    folder = directory.run(run)
    folder.mkdir(parents=True, exist_ok=True)
    curves = [{"epoch": k, "step": 10 * k, "seconds": 2.0 * k, "loss": loss * (5 - k), "accuracy": 0.2 * k * test}
              for k in range(1, 5)]  # fmt: skip
    results = {
        "validation": {"loss": loss, "accuracy": test + 0.01},
        "test": {"loss": loss, "accuracy": test},
        "flops": {"forward": 1e9, "backward": 2e9},
    }
    (folder / "curves.json").write_text(json.dumps(curves))
    (folder / "results.json").write_text(json.dumps(results))
    directory.end(run, Outcome("complete", loss, "", 1, 1.0))


def run_everything(laboratory: Laboratory) -> None:
    """Write results for every planned run."""
    directory = laboratory.directory
    for phase in ("tuning", "reporting"):
        for arm in laboratory.arms:
            for planned in directory.planned(arm.folder, phase):
                if phase == "tuning" and arm.label == "MomentumLSTM" and planned.number in (FAILED, DIVERGED):
                    status = "failed" if planned.number == FAILED else "diverged"
                    directory.end(planned.run, Outcome(status, None, f"it {status} & said so", 1, 1.0))
                else:
                    loss = 0.1 + 0.01 * planned.number + planned.values["model.optimizer.lr"]
                    end(directory, planned.run, loss, accuracy(arm.label, planned.seed))
        laboratory.planner.advance()


@pytest.fixture
def study(write_study, tmp_path) -> Path:
    path = write_study(
        cells=CELLS, seeds=SEEDS, budget={"trials": 6, "epochs": 4}, controls="auto",
        targets=[{"metric": "accuracy", "value": 0.65}, {"metric": "loss", "value": 0.0}],
    )  # fmt: skip
    run_everything(Laboratory(read_study(path), StudyDirectory(tmp_path / "study")))
    return path


@pytest.fixture
def gathered(study, tmp_path):
    return gather(read_study(study), StudyDirectory(tmp_path / "study"))


def write_report(study: Path, tmp_path: Path, name: str) -> str:
    assert main(["report", str(study), "--dir", str(tmp_path / "study"), "--output", str(tmp_path / name)]) == 0
    return (tmp_path / name).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Links, identities and addresses of resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.resources += [given[name] for name in ("src", "data") if name in given] + [tag] * (
            tag in ("link", "script")
        )


def test_results_are_mean_and_sd_over_the_reporting_seeds(gathered):
    for results, row in zip(gathered.arms, results_table(gathered).rows, strict=True):
        values = [accuracy(results.label, seed) for seed in SEEDS["reporting"]]
        assert row[1].text == "5 of 5"
        assert row[2].text == f"{fmean(values):.4g} ± {stdev(values):.2g}"
        assert row[4].text == "-0.01"


def test_differences_are_those_of_scipys_paired_test(gathered):
    found = {(c.second.label, c.first.label): c for c in comparisons(gathered)}
    controls = [label for label in (results.label for results in gathered.arms) if "momentum" in label]
    assert list(found) == [("MomentumLSTM", "LSTM"), *(("MomentumLSTM", control) for control in controls)]
    p_values = []
    for (second, first), comparison in found.items():
        a, b = ([accuracy(label, seed) for seed in SEEDS["reporting"]] for label in (first, second))
        test = stats.ttest_rel(b, a)
        assert comparison.difference.mean == pytest.approx(fmean(b) - fmean(a))
        assert comparison.difference.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
        exact = stats.permutation_test((np.subtract(b, a),), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert comparison.difference.p == pytest.approx(exact.pvalue)
        assert comparison.difference.smallest_p == 0.0625
        p_values.append(exact.pvalue)
    assert [c.holm for c in found.values()] == pytest.approx([min(1, len(p_values) * p) for p in p_values], abs=0.2)


def test_cost_of_a_target_counts_epochs_seconds_and_flops(gathered):
    run = gathered.arm("LSTM").reporting[0]
    reached = next(row for row in run.curves if row["accuracy"] >= 0.65)
    assert cost_of(run, gathered.study.targets[0]) == (reached["epoch"], reached["seconds"], 3e9 * reached["step"])
    rows = target_table(gathered).rows
    costs = [cost_of(run, gathered.study.targets[0]) for run in gathered.arm("LSTM").reporting]
    assert rows[0][2].text == f"{sum(c is not None for c in costs)} of 5"
    assert rows[0][3].text == f"{median(c[0] if c else float('inf') for c in costs):.4g}"


def test_unreached_target_is_said_to_be_unreached(gathered):
    rows = [row for row in target_table(gathered).rows if "loss" in row[0].text]
    assert {row[2].text for row in rows} == {"0 of 5"}
    assert {row[3].text for row in rows} == {"not reached"}


def test_failed_and_diverged_points_are_infinitely_bad(gathered):
    values = [value for _, value in tuning_values(gathered.arm("MomentumLSTM"), gathered.choose_by)]
    assert sum(np.isinf(values)) == 2
    row = next(row for row in sensitivity_table(gathered).rows if row[0].text == "MomentumLSTM")
    assert row[1].text == "4 of 6"


def test_page_is_self_contained_and_every_link_has_a_target(study, tmp_path):
    page = Page(write_report(study, tmp_path, "report.html"))
    assert page.resources
    assert all(resource.startswith("data:image/svg+xml;base64,") for resource in page.resources)
    assert len(set(page.ids)) == len(page.ids)
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside
    assert inside <= set(page.ids)
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside
    assert all((tmp_path / link).is_dir() for link in outside if "seed100" not in link)


def test_every_measured_cell_names_its_runs(gathered):
    for table in (results_table(gathered), sensitivity_table(gathered)):
        for row in table.rows:
            assert all(cell.runs for cell in row[1:] if re.match(r"[-\d.]+\d", cell.text))


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.tex"])
def test_report_names_failures_and_ends_with_the_command(study, tmp_path, name):
    text = write_report(study, tmp_path, name)
    escaped = {".html": "it failed &amp; said so", ".md": "it failed & said so", ".tex": r"it failed \& said so"}
    assert escaped[Path(name).suffix] in text
    assert "diverged" in text
    assert f"python -m app report {study}" in text[-300:]


def test_markdown_links_lead_to_lists_of_run_directories(study, tmp_path):
    text = write_report(study, tmp_path, "report.md")
    anchors = set(re.findall(r'<a id="([^"]+)"', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_csv_has_a_row_for_each_planned_run(study, tmp_path, gathered):
    rows = list(csv.DictReader(write_report(study, tmp_path, "runs.csv").splitlines()))
    planned = {path.stem for path in (tmp_path / "study/plan").glob("*/*/*.json")}
    assert {row["run"] for row in rows} == planned
    for row in rows:
        if row["phase"] == "reporting":
            assert float(row["test/accuracy"]) == accuracy(row["arm"], int(row["seed"]))
    first = gathered.arm("LSTM").reporting[0]
    row = next(row for row in rows if row["run"] == first.name)
    costs = cost_of(first, gathered.study.targets[0])
    assert [row[f"validation accuracy >= 0.65: {unit}"] for unit in ("epochs", "seconds", "FLOPs")] == [
        *map(str, costs)
    ]
    assert row["validation loss <= 0: epochs"] == ""
    lost = [row for row in rows if row["status"] in ("failed", "diverged")]
    assert lost
    assert {row["test/accuracy"] for row in lost} == {""}


def test_figures_are_written_as_files(study, tmp_path):
    options = ["--dir", str(tmp_path / "study"), "--output", str(tmp_path / "report.md")]
    assert main(["report", str(study), *options, "--figures", str(tmp_path / "figures")]) == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"results_by_seed.svg", "learning_curves.svg", "hyperparameters_of_momentumlstm.svg"} <= names
    assert all((tmp_path / "figures" / name).read_text().startswith("<?xml") for name in names)


def test_place_that_cannot_be_written_is_named_as_it_was_given(study, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    options = ["report", str(study), "--dir", str(tmp_path / "study")]
    assert main([*options, "--output", str(tmp_path / "missing/report.md")]) == 2
    assert f"error: {tmp_path / 'missing/report.md'} cannot be written" in capsys.readouterr().err
    assert main([*options, "--output", str(tmp_path / "report.md"), "--figures", str(tmp_path / "file")]) == 2
    assert f"error: {tmp_path / 'file'} cannot be written" in capsys.readouterr().err


def test_gradients_through_time_are_drawn_beside_the_loss(gathered):
    assert "Gradients through time" not in {picture.title for picture in pictures(gathered)}
    for results in gathered.arms[:2]:
        norms_NT = np.array([[1e-9, 1e-3, 1.0], [0.0, 1e-1, 1.0]])
        np.savez(
            results.reporting[0].path / "gradients.npz", steps=[0, 20], probe_loss=[2.0, 1.0], **{"cell/h": norms_NT}
        )
    (drawn,) = [picture for picture in pictures(gathered) if picture.title == "Gradients through time"]
    assert drawn.svg.count("<image") >= 2  # one map for each arm, and the scale
    assert "the first reporting seed" in drawn.caption


def test_latex_has_labels_for_all_references_and_balanced_braces(study, tmp_path):
    text = write_report(study, tmp_path, "report.tex")
    assert set(re.findall(r"\\hyperref\[([^]]+)\]", text)) <= set(re.findall(r"\\label\{([^}]+)\}", text))
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == text.count(r"\begin{tabular}")


def test_report_of_the_same_study_is_the_same_file(study, tmp_path):
    first = write_report(study, tmp_path, "report.html")
    assert write_report(study, tmp_path, "report.html") == first


def test_report_needs_no_optuna(study, tmp_path):
    code = "import sys; sys.modules['optuna'] = None; from app.commands.main import main; sys.exit(main(sys.argv[1:]))"
    options = ["report", str(study), "--dir", str(tmp_path / "study"), "--output", str(tmp_path / "report.md")]
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_report_of_a_study_that_was_never_started_says_how(write_study, capsys):
    assert main(["report", str(write_study())]) == 2
    assert "start it with: python -m app sweep" in capsys.readouterr().err


def test_directory_of_another_study_is_refused(study, write_study, tmp_path, capsys):
    other = write_study("other", cells={"LSTM": {}, "GRU": {}})
    assert main(["report", str(other), "--dir", str(tmp_path / "study")]) == 2
    assert "has runs of LSTM, MomentumLSTM, but" in capsys.readouterr().err


def test_status_counts_runs(study, tmp_path, capsys):
    assert main(["sweep", str(study), "--dir", str(tmp_path / "study"), "--status"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if re.match(r"MomentumLSTM +tuning", line))
    assert line.split() == ["MomentumLSTM", "tuning", "6", "4", "1", "1", "0", "0", "0", "0"]


def test_published_number_is_that_of_the_row(write_study, tmp_path):
    path = write_study(cells={"row": {"config": "configs/mnist/momentum_lstm_128.yaml"}},
                       shared={"data.protocol": "validation"})  # fmt: skip
    (arm,) = Laboratory(read_study(path), StudyDirectory(tmp_path / "study")).arms
    assert published(arm, "accuracy").mean == pytest.approx(0.9904)


@pytest.mark.slow
def test_a_thousand_runs_are_reported_in_half_a_minute(write_study, tmp_path):
    budget = {"trials": 150, "epochs": 4}
    seeds = {"tuning": [100], "reporting": list(range(1000, 1100))}
    path = write_study(cells=CELLS, budget=budget, seeds=seeds, controls="auto")
    run_everything(Laboratory(read_study(path), StudyDirectory(tmp_path / "study")))
    begin = time.monotonic()
    write_report(path, tmp_path, "report.html")
    assert time.monotonic() - begin < 30
