"""Vocabulary: words or characters, and their numbers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

UNKNOWN = "<unk>"


class UnknownWordError(Exception):
    """The word ``args[0]`` is not in a vocabulary without ``<unk>``."""


class Vocabulary:
    """Words of a text with their numbers; more frequent words have smaller numbers.

    Args:
        words: Distinct words in the order of their numbers.

    Attributes:
        words: Words in the order of their numbers.
        unknown: Number of ``<unk>``, which replaces words outside the vocabulary; None: there is no ``<unk>``.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        self.unknown = self._numbers.get(UNKNOWN)

    @classmethod
    def of_counts(cls, counts: Counter[str], min_frequency: int = 1) -> Vocabulary:
        """Return the vocabulary of the words with at least ``min_frequency`` counts; above 1, the rest is ``<unk>``.

        torchtext numbers the words from the most frequent on, and equally frequent words alphabetically.
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
        """Return the numbers of ``words``.

        Raises:
            UnknownWordError: A word is not in the vocabulary, and neither is ``<unk>``.
        """
        try:
            return [self._numbers[word] for word in words]
        except KeyError as error:
            if self.unknown is None:
                raise UnknownWordError(error.args[0]) from None
        return [self._numbers.get(word, self.unknown) for word in words]

    @property
    def digest(self) -> str:
        """SHA-256 of the words in order, which identifies the vocabulary."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()
