"""Texts for word-level language modelling: a file each for training, validation and testing.

Shapes: N tokens of a text.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from datamodules.base import Batch, DataError, DataModule, run_seed, whole_batch
from datamodules.text.ngrams import bigram_loss, unigram_loss
from datamodules.text.streams import Rows, TrainingWindows, Window, Windows
from datamodules.text.tokens import Reading, Tokens, number_text, read_tokens
from datamodules.text.vocabulary import Vocabulary

PARTS = ("train", "validation", "test")


class Corpus(DataModule):
    """A text for training, one for validation and one for testing, as streams of words.

    The words of a line are what stands between white space, followed by ``end_of_line``. The vocabulary is that of the
    training text; other words become ``<unk>`` if the vocabulary has it, and are refused otherwise. The texts are
    numbered once and then read from a cache on disk (:mod:`datamodules.text.tokens`).

    Training reads ``batch_size`` rows in each process, each row a contiguous text, in windows of random length
    (:class:`datamodules.text.streams.TrainingWindows`); the model carries its state from window to window. Evaluation
    reads the same rows whatever the number of processes, which share them, so that perplexities do not depend on it.

    Args:
        root: Folder of the data; None means the environment variable DATA_DIR, else ``data``. Nothing is written
            outside it but ``cache``.
        batch_size: Rows in a training batch (of each process).
        window: Steps of a window of truncated back-propagation, where they are random the usual ones.
        random_windows: Whether training windows have random lengths; otherwise all have ``window`` steps.
        validation_rows: Rows that the validation text is cut into, over all processes.
        test_rows: The same of the test text; with 1 it is read as one text from beginning to end.
        train: File of the training text in the folder; None means the corpus's own name for it, here ``train.txt``.
        validation: File of the validation text; None means ``valid.txt``.
        test: File of the test text; None means ``test.txt``.
        end_of_line: The word put at the end of each line; null puts none.
        min_frequency: How often a word must occur in the training text to be in the vocabulary; above 1, ``<unk>``
            stands for the others.
        text: File of a text of one's own, which ``predict`` reads in place of the test text.
        vocabulary: A file of words, one a line in the order of their numbers, in place of the training text's: the
            ``vocabulary.txt`` of a run. With it, ``predict`` needs no corpus.
        cache: Folder for the numbered texts; None means ``prepared`` in the folder of the data.

    Raises:
        ValueError: if an argument lies outside what is accepted.
        DataError: while the data are prepared: if a file is missing, empty, no text, too short for the rows or for the
            window, or has an unknown word.
    """

    input_size = 1  # the number of a word
    provided_sizes = ("vocabulary_size",)
    resumable_arguments = ("root", "cache")
    folders: ClassVar[tuple[str, ...]] = (".",)
    own_names: ClassVar[tuple[str, ...]] = ("train.txt", "valid.txt", "test.txt")
    train: Rows
    validation: Rows
    test: Rows

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 20,
        window: int = 70,
        random_windows: bool = True,
        validation_rows: int = 10,
        test_rows: int = 1,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        end_of_line: str | None = "<eos>",
        min_frequency: int = 1,
        text: str | None = None,
        vocabulary: str | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__(root, batch_size)
        for name, value in (
            ("window", window),
            ("validation_rows", validation_rows),
            ("test_rows", test_rows),
            ("min_frequency", min_frequency),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; an integer of at least 1 is expected")
        if end_of_line is not None and (not end_of_line or end_of_line.split() != [end_of_line]):
            raise ValueError(f"end_of_line is {end_of_line!r}; a word without white space or null is expected")
        self.window = window
        self.random_windows = random_windows
        self.rows = {"validation": validation_rows, "test": test_rows}
        given = (train, validation, test)
        self.file_names = {part: name or own for part, name, own in zip(PARTS, given, self.own_names, strict=True)}
        self.reading = Reading(end_of_line, min_frequency)
        self.text = None if text is None else Path(text)
        self.vocabulary_file = None if vocabulary is None else Path(vocabulary)
        self.cache = None if cache is None else Path(cache)

    @cached_property
    def tokens(self) -> Tokens:
        """The numbered texts; the first use of them prepares them."""
        files = {part: self._find(name) for part, name in self.file_names.items()}
        return read_tokens(files, self.reading, self._cache_folder(files["train"]), self._given_vocabulary())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the training text, or those that were given."""
        return self._given_vocabulary() or self.tokens.vocabulary

    @property
    def vocabulary_size(self) -> int:
        """Number of different words."""
        return len(self.vocabulary)

    @property
    def description(self) -> dict[str, Any]:
        windows = "of random length as in AWD-LSTM" if self.random_windows else "of one length"
        return {
            "tokens": {part: len(tokens) for part, tokens in self.tokens.parts.items()},
            "vocabulary": self.vocabulary_size,
            "end_of_line": self.reading.end_of_line,
            "window": f"{self.window} steps, {windows}",
            "rows": {"train": f"{self.batch_size} in each process", **self.rows},
        }

    def run_files(self) -> dict[str, str]:
        return {"vocabulary.txt": "\n".join(self.vocabulary.words) + "\n"}

    def baselines(self) -> dict[str, float]:
        """Nats per word of a unigram and of a bigram model of the training text, without the first word of a text."""
        return self._ngram_losses

    @cached_property
    def _ngram_losses(self) -> dict[str, float]:
        train, size = self.tokens.parts["train"], self.vocabulary_size
        return {
            f"{name}, {part}": loss(train, self.tokens.parts[part], size)
            for part in ("validation", "test")
            for name, loss in (("unigram", unigram_loss), ("Kneser-Ney bigram", bigram_loss))
        }

    def prepare_data(self) -> None:
        """Number the texts, if they are not in the cache; Lightning calls it in one process of a machine."""
        if self.text is None or self.vocabulary_file is None:
            _ = self.tokens

    def setup(self, stage: str | None = None) -> None:
        if stage == "predict" and self.text is not None:
            return
        rank, world_size = self._processes()
        for part, tokens in self.tokens.parts.items():
            rows = self.rows.get(part, self.batch_size * world_size)
            name, count = self._find(self.file_names[part]), len(tokens)
            if count < 2 * rows:
                raise DataError(
                    f"{name} has {count} words (with ends of lines), too few for {rows} rows (batch size and "
                    "processes): at least 2 for each row are expected"
                )
            if part == "train" and count // rows <= self.window:
                raise DataError(
                    f"window is {self.window}, but {name} has {count} words (with ends of lines), in {rows} rows of "
                    f"{count // rows}: a window shorter than a row is expected"
                )
            setattr(self, part, Rows(tokens, rows, rank, world_size))

    def train_dataloader(self) -> DataLoader[Batch]:
        windows = self._training_windows()
        windows.epoch, windows.start = self.resumed_at
        self.resumed_at = (0, 0)
        return self._stream(self.train, windows)

    def batches_in_epochs(self, epochs: int) -> list[int]:
        """How many training batches each of the epochs has, from the first one on."""
        windows = self._training_windows()
        return [len(windows.windows(epoch)) for epoch in range(epochs)]

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._stream(self.validation, Windows(self.validation.steps, self.window))

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._stream(self.test, Windows(self.test.steps, self.window))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The text to predict as one row; an end of line stands before it, so that its first word is predicted too."""
        if self.text is None:
            tokens_N = self.tokens.parts["test"]
        else:
            tokens_N = number_text(self.text, self.reading, self.vocabulary)
        if self.reading.end_of_line is not None:
            tokens_N = np.concatenate([self.vocabulary.numbers([self.reading.end_of_line]), tokens_N])
        if len(tokens_N) < 2:
            raise DataError(f"{self.text} has one word; at least two are expected where lines have no end")
        rank, world_size = self._processes()
        rows = Rows(tokens_N, 1, rank, world_size)
        return self._stream(rows, Windows(rows.steps, self.window))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: which words its model knows, and how far the training has come."""
        words = {"vocabulary": self.vocabulary.digest, "end_of_line": self.reading.end_of_line}
        return {**words, **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint whose model knows other words, or numbers them otherwise."""
        if state_dict["vocabulary"] != self.vocabulary.digest:
            raise DataError(
                f"the words of {self.file_names['train']} are not those that the checkpoint's model was trained on; "
                "its own corpus is expected, or --data.vocabulary with the vocabulary.txt of its run"
            )
        super().load_state_dict(state_dict)

    def _reading(self) -> dict[str, Any]:
        return {**super()._reading(), "window": self.window, "random_windows": int(self.random_windows)}

    def _training_windows(self) -> TrainingWindows:
        return TrainingWindows(self.train.steps, self.window, seed=run_seed() or 0, random=self.random_windows)

    def _stream(self, rows: Rows, windows: Sampler[Window]) -> DataLoader[Batch]:
        # a generator of its own: a loader draws a number each time it is read, which is not to change dropout
        return DataLoader(
            rows,
            batch_sampler=windows,  # type: ignore[arg-type]  # a window in the place of a list of indices
            collate_fn=whole_batch,
            generator=torch.Generator(),
        )

    def _given_vocabulary(self) -> Vocabulary | None:
        if self.vocabulary_file is None:
            return None
        try:
            return Vocabulary(self.vocabulary_file.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"vocabulary is '{self.vocabulary_file}', which cannot be read: {error}") from error

    def _cache_folder(self, train: Path) -> Path:
        """A folder for each place that a corpus lies in."""
        place = hashlib.sha256(str(train.resolve()).encode()).hexdigest()[:8]
        return (self.cache or self.root / "prepared") / f"{type(self).__name__}-{place}"

    def _find(self, name: str) -> Path:
        """The file ``name`` in the first folder that has it."""
        paths = [self.root / folder / name for folder in self.folders]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise DataError(
                f"{name} is missing: looked for as {', '.join(map(str, paths))}; put it there, or name another folder "
                "by --data.root"
            )
        return found
