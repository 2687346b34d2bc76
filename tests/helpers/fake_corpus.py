"""A fake corpus: sentences made by a fixed rule, so that the next word is partly predictable."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LINES = {"train": 300, "valid": 40, "test": 40}
SUBJECTS, VERBS, OBJECTS = (
    ("the cat", "a dog", "the <unk>"),
    ("sees", "hears", "finds"),
    ("N mice", "a bird", "nothing"),
)


def small_text(part: str) -> str:
    """Return lines of a subject, a verb that usually depends on it, and an object."""
    rng = np.random.RandomState(LINES[part])
    lines = []
    for _ in range(LINES[part]):
        subject = rng.randint(3)
        verb = subject if rng.rand() < 0.8 else rng.randint(3)
        lines.append(f" {SUBJECTS[subject]} {VERBS[verb]} {OBJECTS[rng.randint(3)]} \n")
    return "".join(lines)


def write_small_corpus(folder: Path, names: str = "{}.txt", more_words: int = 0) -> None:
    """Write the three files of the corpus; ``more_words`` more words are in a last line of the training text."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in LINES:
        (folder / names.format(part)).write_text(small_text(part))
    if more_words:
        with (folder / names.format("train")).open("a") as file:
            file.write(" ".join(f"word{number}" for number in range(more_words)) + "\n")
