"""The project is written in the terms of the field, without the expressions that an earlier version made up."""

from __future__ import annotations

import re
import subprocess

import pytest
from helpers.paths import ROOT

AVOIDED = {  # each with the standard term
    "go on, goes on, gone on, going on": "resume, continue",
    "anew": "again, from scratch",
    "stand in, stands in, stand beside, stands beside": "is in, is next to",
    "what is there": "a noun",
    "that which": "what, or a noun",
    "whoever": "a noun",
    "is told, are told, be told": "receives, is given",
    "as it stands": "unchanged",
    "of its own": "own, separate",
    "looked into": "examined, probed",
    "errors are sentences, error is a sentence": "an error message",
}
THIS_FILE = "tests/project/test_words.py"


def pattern(expressions: str) -> re.Pattern[str]:
    """Return a pattern for comma-separated expressions, in identifiers too, and across the line breaks of comments."""
    words = [r"(?:\s+(?:[#*>]\s*)?|_)".join(expression.split()) for expression in expressions.split(", ")]
    return re.compile(rf"(?<![a-z])(?:{'|'.join(words)})(?![a-z])", re.IGNORECASE)


def occurrences(expressions: str, text: str) -> list[int]:
    """Return the line of each occurrence."""
    return [text.count("\n", 0, match.start()) + 1 for match in pattern(expressions).finditer(text)]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The tracked text files by name."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    found = {}
    for name in listed.stdout.split("\0"):
        content = (ROOT / name).read_bytes() if name and (ROOT / name).is_file() else b"\0"
        if name != THIS_FILE and b"\0" not in content:
            found[name] = content.decode("utf-8")
    return found


@pytest.mark.parametrize("expressions", AVOIDED)
def test_expression_is_not_used(expressions, texts):
    found = [f"{name}:{line}" for name, text in texts.items() for line in occurrences(expressions, text)]
    assert not found, f"{expressions} -> {AVOIDED[expressions]}: {', '.join(found)}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("it goes on", [1]),
        ("a run\nthat has Gone\n    # on", [2]),
        ("def going_on():", [1]),
        ("and so on; ongoing; it goes only; an argon on", []),
    ],
)
def test_occurrences_are_found(text, lines):
    assert occurrences("go on, goes on, gone on, going on", text) == lines
