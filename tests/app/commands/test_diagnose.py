"""The report on trained models."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from app.callbacks.gradient_history import History
from app.commands.diagnose import examine, run_names
from app.commands.main import main
from app.diagnostics.page import page
from app.diagnostics.probe import Measurement
from cells import LSTM, MomentumRNN
from cells.analysis.jacobians import jacobians

VOID = {"meta", "link", "img", "br"}


class Checker(HTMLParser):
    """A parser that collects tags that do not match and everything that a browser would load."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.loads, self.images, self.scripts = [], [], [], 0, 0

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.images += tag == "img"
        self.scripts += tag == "script"
        self.loads += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def checked(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.wrong == []
    assert checker.open == []
    assert checker.scripts == 0
    assert all(url.startswith("data:") for url in checker.loads)
    return checker


def test_page_on_two_checkpoints_is_self_contained(trained, capsys):
    best, last = (str(trained / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt"))
    assert main(["diagnose", "--ckpt_path", best, "--ckpt_path", last, "--output", "page.html"]) == 0
    assert "report: page.html" in capsys.readouterr().out
    text = Path("page.html").read_text()
    assert checked(text).images == 5  # profiles, two histories, singular values, Jacobians
    assert len(text) < 1_000_000
    assert text.count("MomentumLSTM(1, 16") == 2
    assert "<th>best.ckpt</th>" in text
    assert "share of gate f above 0.9" in text


def test_page_shows_the_measured_numbers(trained):
    found = examine(trained / "checkpoints/best.ckpt", "a < b")
    weight_HH = torch.load(found.path, weights_only=True)["state_dict"]["cell.weight_hh"].chunk(4)[1]
    norm = torch.linalg.matrix_norm(weight_HH.double(), ord=2).item()
    text = page([found])
    assert f"<tr><th>spectral norm of U, block f</th><td>{norm:.3g}</td></tr>" in text
    ratio = found.measurement.norms["cell/h"][:7].mean() / found.measurement.norms["cell/h"][-7:].mean()
    assert f"first tenth of the steps to last</th><td>{ratio:.3g}</td>" in text
    assert "a &lt; b" in text
    assert "a < b" not in text


def test_published_product_is_shown_for_tanh_networks_only(trained):
    found = examine(trained / "checkpoints/best.ckpt", "run")
    words = {}
    for cell in (MomentumRNN(1, 5), LSTM(1, 5)):
        measured = replace(found, jacobians={"cell": jacobians(cell, torch.randn(9, 1))})
        words[type(cell)] = page([measured]).partition("<ul>")[2]
    assert re.search(
        r"The published product is [\d.e+-]+\. The derivative by what enters through the drive", words[MomentumRNN]
    )
    assert "applies to a tanh network with fixed momentum only" in words[LSTM]


def test_names_are_those_of_the_runs_or_what_differs():
    assert run_names([Path("runs/a/checkpoints/best.ckpt"), Path("runs/b/checkpoints/best.ckpt")]) == ["a", "b"]
    assert run_names([Path("a/checkpoints/best.ckpt"), Path("a/checkpoints/last.ckpt")]) == ["best.ckpt", "last.ckpt"]
    assert run_names([Path("runs/a/checkpoints/best.ckpt")]) == ["a"]
    assert run_names([Path("x/a/best.ckpt"), Path("y/b/best.ckpt")]) == ["x", "y"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--ckpt_path must be given once or several times, such as RUN/checkpoints/best.ckpt"),
        (["--ckpt_path", "none.ckpt"], "ckpt_path 'none.ckpt' does not exist"),
        (["--ckpt_path", "none.ckpt", "--output", "page.pdf"], "output must end in .html, got 'page.pdf'"),
        (
            ["--ckpt_path", "none.ckpt", "--output", "no/page.html"],
            "the directory 'no' of output 'no/page.html' does not exist",
        ),
        (["--no"], "--no is unknown"),
    ],
)
def test_invalid_options_give_one_line(options, message, capsys):
    assert main(["diagnose", *options]) == 2
    assert message in capsys.readouterr().err


def test_checkpoint_without_run_directory_needs_a_configuration(trained, capsys):
    (Path("elsewhere") / "checkpoints").mkdir(parents=True)
    copied = shutil.copy(trained / "checkpoints/best.ckpt", "elsewhere/checkpoints/best.ckpt")
    assert main(["diagnose", "--ckpt_path", str(copied)]) == 2
    assert "Give it by --config FILE" in capsys.readouterr().err
    assert main(["diagnose", "--ckpt_path", str(copied), "--config", str(trained / "config.yaml")]) == 0
    assert checked(Path("report.html").read_text()).images == 3  # no histories


def test_history_of_the_run_is_shown(trained):
    found = examine(trained / "checkpoints/best.ckpt", "run")
    assert isinstance(found.history, History)
    assert isinstance(found.measurement, Measurement)
    assert found.history.steps[0] == 0
