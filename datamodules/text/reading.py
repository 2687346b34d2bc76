"""Division of a text into words or characters, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["word", "character"]
UNITS = ("word", "character")
SPACE = "_"  # the character that stands for white space


@dataclass(frozen=True)
class Reading:
    """Settings that divide a text into tokens, which are words or characters.

    ``word``: words are separated by white space.
    ``character``: the characters of the words. White space after a word is one ``_``. The last word of a line has one
    too, and leading white space has none. These are the characters of Mikolov's Penn Treebank.

    Attributes:
        end_of_line: Token at the end of each line; None: none.
        min_frequency: Minimum count in the training text of a token in the vocabulary. Above 1, other tokens are
            ``<unk>``.
        unit: ``word`` or ``character``.
    """

    end_of_line: str | None = "<eos>"
    min_frequency: int = 1
    unit: Unit = "word"

    def tokens(self, lines: Sequence[str]) -> list[str]:
        """Return the tokens of some lines."""
        divided: Sequence[Sequence[str]] = [line.split() for line in lines]
        if self.unit == "character":
            divided = ["".join(f"{word}{SPACE}" for word in words) for words in divided]
        end = () if self.end_of_line is None else (self.end_of_line,)
        return [token for tokens in divided for token in (*tokens, *end)]

    def tokens_of_prompt(self, text: str) -> list[str]:
        """Return the tokens of the beginning of a line. Its last character is ``_`` only if white space ends it."""
        if self.unit == "word":
            return text.split()
        return list(SPACE.join(text.split()) + (SPACE if text.strip() and text[-1:].isspace() else ""))

    def text_of(self, tokens: Sequence[str]) -> str:
        """Return tokens as a text, with line breaks for ``end_of_line``."""
        if self.unit == "character":
            text = "".join("\n" if token == self.end_of_line else token for token in tokens).replace(SPACE, " ")
            return text.replace(" \n", "\n")
        text = " ".join("\n" if token == self.end_of_line else token for token in tokens)
        return text.replace(" \n", "\n").replace("\n ", "\n")
