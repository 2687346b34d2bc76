"""The page about trained models."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from app.callbacks.gradient_history import History
from app.commands.diagnose import examine, short_names
from app.commands.main import main
from app.diagnostics.page import page
from app.diagnostics.probe import Measurement
from cells import LSTM, MomentumRNN
from cells.analysis.jacobians import jacobians

VOID = {"meta", "link", "img", "br"}


class Checker(HTMLParser):
    """Tags that do not match, and everything that a browser would load."""

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


def test_a_page_about_two_checkpoints_needs_nothing_but_itself(trained, capsys):
    best, last = (str(trained / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt"))
    assert main(["diagnose", "--ckpt_path", best, "--ckpt_path", last, "--output", "page.html"]) == 0
    assert "report: page.html" in capsys.readouterr().out
    text = Path("page.html").read_text()
    assert checked(text).images == 5  # profiles, two histories, singular values, Jacobians
    assert len(text) < 1_000_000
    assert text.count("MomentumLSTM(1, 16") == 2
    assert "<th>best.ckpt</th>" in text
    assert "share of gate f above 0.9" in text


def test_what_the_page_says_is_what_was_measured(trained):
    found = examine(trained / "checkpoints/best.ckpt", "a < b")
    weight_HH = torch.load(found.path, weights_only=True)["state_dict"]["cell.weight_hh"].chunk(4)[1]
    norm = torch.linalg.matrix_norm(weight_HH.double(), ord=2).item()
    text = page([found])
    assert f"<tr><th>spectral norm of U, block f</th><td>{norm:.3g}</td></tr>" in text
    ratio = found.measurement.norms["cell/h"][:7].mean() / found.measurement.norms["cell/h"][-7:].mean()
    assert f"first tenth of the steps to last</th><td>{ratio:.3g}</td>" in text
    assert "a &lt; b" in text
    assert "a < b" not in text


def test_the_published_product_stands_beside_a_tanh_network_only(trained):
    found = examine(trained / "checkpoints/best.ckpt", "run")
    words = {}
    for cell in (MomentumRNN(1, 5), LSTM(1, 5)):
        measured = replace(found, jacobians={"cell": jacobians(cell, torch.randn(9, 1))})
        words[type(cell)] = page([measured]).partition("<ul>")[2]
    assert re.search(r"The published product says [\d.e+-]+; what enters by the drive", words[MomentumRNN])
    assert "so there is none here" in words[LSTM]


def test_names_are_what_is_different():
    assert short_names([Path("runs/a/checkpoints/best.ckpt"), Path("runs/b/checkpoints/best.ckpt")]) == ["a", "b"]
    assert short_names([Path("a/checkpoints/best.ckpt"), Path("a/checkpoints/last.ckpt")]) == ["best.ckpt", "last.ckpt"]
    assert short_names([Path("runs/a/checkpoints/best.ckpt")]) == ["a"]
    assert short_names([Path("x/a/best.ckpt"), Path("y/b/best.ckpt")]) == ["x/a", "y/b"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "diagnose needs --ckpt_path FILE, such as RUN/checkpoints/best.ckpt, once or several times"),
        (["--ckpt_path", "none.ckpt"], "ckpt_path is 'none.ckpt', but there is no such file"),
        (["--ckpt_path", "none.ckpt", "--output", "page.pdf"], "output is 'page.pdf'; a file that ends in .html"),
        (["--ckpt_path", "none.ckpt", "--output", "no/page.html"], "but there is no folder 'no'"),
        (["--no"], "unrecognized arguments: --no"),
    ],
)
def test_mistakes_are_sentences(options, sentence, capsys):
    assert main(["diagnose", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_of_a_checkpoint_without_its_run_a_configuration_is_asked_for(trained, capsys):
    (Path("elsewhere") / "checkpoints").mkdir(parents=True)
    copied = shutil.copy(trained / "checkpoints/best.ckpt", "elsewhere/checkpoints/best.ckpt")
    assert main(["diagnose", "--ckpt_path", str(copied)]) == 2
    assert "name it by --config FILE" in capsys.readouterr().err
    assert main(["diagnose", "--ckpt_path", str(copied), "--config", str(trained / "config.yaml")]) == 0
    assert checked(Path("report.html").read_text()).images == 3  # no histories


def test_the_history_of_the_run_is_shown(trained):
    found = examine(trained / "checkpoints/best.ckpt", "run")
    assert isinstance(found.history, History)
    assert isinstance(found.measurement, Measurement)
    assert found.history.steps[0] == 0
