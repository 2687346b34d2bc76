"""The documentation is complete: links, public names, options and commands."""

from __future__ import annotations

import re

import pytest
from helpers.documents import DOCS, PAGES
from helpers.paths import ROOT

import cells
import datamodules
from app import tasks
from app.commands.main import main
from benchmarks import vanishing_ratios

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")


def api_names() -> set[str]:
    directives = "\n".join(page.text for page in DOCS if page.path.parent.name == "api")
    return set(re.findall(r"^\.\. auto\w+:: ([\w.]+)$", directives, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = [link for link in LINK.findall(page.text) if "://" not in link]
    missing = [link for link in links if not (page.path.parent / link).exists()]
    assert missing == []


def test_every_page_is_in_the_navigation():
    entries = set()
    for page in DOCS:
        for toctree in re.findall(r"```{toctree}\n(.*?)```", page.text, re.DOTALL):
            names = [line for line in toctree.splitlines() if line and not line.startswith(":")]
            entries |= {(page.path.parent / f"{name}.md").resolve() for name in names}
    assert {page.path.resolve() for page in DOCS} - entries == {ROOT / "docs/index.md"}


@pytest.mark.parametrize("package", [cells, datamodules, tasks], ids=lambda package: package.__name__)
def test_api_reference_lists_every_public_name(package):
    public = {name for name in package.__all__ if name != "Batch"}  # a type alias, which the page describes in words
    assert {f"{package.__name__}.{name}" for name in public} <= api_names()


def test_command_line_page_lists_the_options_of_fit(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    usage = capsys.readouterr().out.partition("\noptions:")[0]
    options = set(re.findall(r"\[(--\w+)\b(?!\.)", usage))
    page = (ROOT / "docs/command_line.md").read_text(encoding="utf-8")
    table = set(re.findall(r"^\| `(--\w+)", page, re.MULTILINE))
    elsewhere = {"--trainer", "--model", "--data", "--config", "--weights_only"}  # named above the table; Lightning's
    assert options - elsewhere <= table
    assert table - options <= {"--config", "--print_config"}


def test_vanishing_ratios_have_a_row_for_each_cell_of_the_page(small_mnist, capsys):
    vanishing_ratios.main(["--root", str(small_mnist), "--hidden_size", "4"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(vanishing_ratios.ROWS)
    assert all(re.fullmatch(r"\| .+ \| \d\.\de[+-]\d+ \| -?\d\.\d{4} \|", line) for line in printed[2:])
