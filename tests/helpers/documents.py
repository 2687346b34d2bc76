"""The code blocks of README and of the documentation pages, for tests that run them.

- A block whose first line is ``# NAME.EXTENSION`` is a file of the working directory, for the other blocks.
- The other ``python`` blocks run one after another, in one namespace.
- A line of a ``bash`` block with ``python -m app`` is a command of the program.
- Other lines that pass options to ``fit`` (torchrun, docker, sbatch) need a cluster or a container engine.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from helpers.paths import ROOT

BLOCK = re.compile(r"^```(bash|python|yaml)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.\w+)\n")
LAUNCHED = re.compile(r"(?:torchrun .*-m app|momentum-rnn:[\d.]+|docker compose run --rm \w+) fit|fit\.sbatch")


@dataclass(frozen=True)
class Page:
    """A Markdown file with code blocks."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, *languages: str) -> list[str]:
        return [code for language, code in BLOCK.findall(self.text) if language in languages]

    @property
    def files(self) -> dict[str, str]:
        """Contents of the files of the page, by name."""
        return {named[1]: code for code in self.blocks("python", "yaml") if (named := FILE.match(code))}

    @property
    def python(self) -> list[str]:
        """The ``python`` blocks that are not files."""
        return [code for code in self.blocks("python") if not FILE.match(code)]

    @property
    def lines(self) -> list[str]:
        """The lines of all ``bash`` blocks; a line that ends with a backslash is joined with the next."""
        return [line for code in self.blocks("bash") for line in code.replace("\\\n", " ").splitlines()]

    @property
    def commands(self) -> list[list[str]]:
        """Arguments of the program, for each command that this machine can run."""
        lines = [line.partition("python -m app ")[2] for line in self.lines if "python -m app " in line]
        return [shlex.split(line, comments=True) for line in lines]

    @property
    def elsewhere(self) -> list[list[str]]:
        """Options of ``fit``, for each command that needs a cluster or a container engine."""
        return [
            shlex.split(line[found.end() :], comments=True) for line in self.lines if (found := LAUNCHED.search(line))
        ]

    def write_files(self, folder: Path) -> None:
        """Write the files of the page into ``folder``."""
        for name, code in self.files.items():
            (folder / name).write_text(code, encoding="utf-8")


README = Page(ROOT / "README.md")
DOCS = [Page(path) for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts]
PAGES = [README, *DOCS]
