"""Words and their numbers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

UNKNOWN = "<unk>"


class UnknownWordError(Exception):
    """A word that a vocabulary without ``<unk>`` does not have; ``args[0]`` is the word."""


def text_of(words: Sequence[str], end_of_line: str | None) -> str:
    """Words as a text: blanks between them, and a new line where ``end_of_line`` stands."""
    text = " ".join("\n" if word == end_of_line else word for word in words)
    return text.replace(" \n", "\n").replace("\n ", "\n")


class Vocabulary:
    """The words of a text, each with its number; the more frequent a word, the smaller its number.

    Args:
        words: The words, each once, in the order of their numbers.

    Attributes:
        words: The words.
        unknown: The number of ``<unk>``, which stands for every word that is not there; None without it.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        self.unknown = self._numbers.get(UNKNOWN)

    @classmethod
    def of_counts(cls, counts: Counter[str], min_frequency: int = 1) -> Vocabulary:
        """The words that were counted at least ``min_frequency`` times; above 1, ``<unk>`` is the word for the rest.

        Numbered by torchtext, from the most frequent on, equally frequent ones in the order of the alphabet.
        """
        from torchtext.vocab import Vocab  # takes half a second to import

        if min_frequency > 1:
            counts = Counter(counts)
            rest = sum(count for word, count in counts.items() if count < min_frequency and word != UNKNOWN)
            counts[UNKNOWN] = max(counts[UNKNOWN] + rest, min_frequency)
        return cls(Vocab(counts, min_freq=min_frequency, specials=[]).itos)

    def __len__(self) -> int:
        return len(self.words)

    def numbers(self, words: Sequence[str]) -> list[int]:
        """The numbers of ``words``.

        Raises:
            UnknownWordError: for the first word that is not there, if ``<unk>`` is not there either.
        """
        try:
            return [self._numbers[word] for word in words]
        except KeyError as error:
            if self.unknown is None:
                raise UnknownWordError(error.args[0]) from None
        return [self._numbers.get(word, self.unknown) for word in words]

    @property
    def digest(self) -> str:
        """SHA-256 of the words in their order, by which two vocabularies are told apart."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()
