"""Texts for word-level language modeling, with one file each for training, validation and test.

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
    """Texts for training, validation and test as streams of words.

    Words are separated by white space, and ``end_of_line`` follows each line. The vocabulary is that of the training
    text. Other words become ``<unk>`` if the vocabulary contains it; otherwise they are an error. The texts are
    converted to numbers once and then read from a cache on disk (:mod:`datamodules.text.tokens`).

    Training reads ``batch_size`` rows in each process, each a contiguous part of the text, in windows of random length
    (:class:`datamodules.text.streams.TrainingWindows`). The model carries its state from window to window. Evaluation
    reads the same rows for any number of processes, so perplexities do not depend on it.

    Args:
        root: Folder of the data; None: the environment variable DATA_DIR, else ``data``. Nothing is written elsewhere,
            except to ``cache``.
        batch_size: Rows in a training batch of each process.
        window: Steps of a window of truncated back-propagation through time; with random windows the usual number.
        random_windows: Whether training windows have random lengths; otherwise all have ``window`` steps.
        validation_rows: Rows of the validation text, over all processes.
        test_rows: Rows of the test text; with 1 it is one sequence from beginning to end.
        train: File of the training text in the folder; None: the file name of the corpus, here ``train.txt``.
        validation: File of the validation text; None: ``valid.txt``.
        test: File of the test text; None: ``test.txt``.
        end_of_line: Word at the end of each line; null: none.
        min_frequency: Minimum count in the training text of a word in the vocabulary. Above 1, other words are
            ``<unk>``.
        text: File of a text that ``predict`` reads instead of the test text.
        vocabulary: File of a vocabulary to use instead of the training text's, with one word on each line in the order
            of their numbers: ``vocabulary.txt`` of a run. With it ``predict`` needs no corpus.
        cache: Folder of the numbered texts; None: ``prepared`` in the folder of the data.

    Raises:
        ValueError: An argument is outside its range.
        DataError: During preparation and setup: a file is missing, empty, not UTF-8, too short for the rows or the
            window, or contains an unknown word.
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
                raise ValueError(f"{name} must be an integer of at least 1, got {value}")
        if end_of_line is not None and (not end_of_line or end_of_line.split() != [end_of_line]):
            raise ValueError(f"end_of_line must be a word without white space, or null, got {end_of_line!r}")
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
        """Texts as word numbers. The first access prepares them."""
        files = {part: self._find(name) for part, name in self.file_names.items()}
        return read_tokens(files, self.reading, self._cache_folder(files["train"]), self._given_vocabulary())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Words of the training text, or the given vocabulary."""
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
        """Return the nats per word of a unigram and a bigram model of the training text, without the first word."""
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
        """Write the cache if it is missing or stale. Lightning calls it in one process of each machine."""
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
                    f"{name} must have at least 2 words for each of the {rows} rows (batch size times processes), "
                    f"got {count} words (ends of lines counted)"
                )
            if part == "train" and count // rows <= self.window:
                raise DataError(
                    f"window must be less than the length of a row, {count // rows} ({name} has {count} words in "
                    f"{rows} rows), got {self.window}"
                )
            setattr(self, part, Rows(tokens, rows, rank, world_size))

    def train_dataloader(self) -> DataLoader[Batch]:
        windows = self._training_windows()
        windows.epoch, windows.start = self.resumed_at
        self.resumed_at = (0, 0)
        return self._stream(self.train, windows)

    def batches_in_epochs(self, epochs: int) -> list[int]:
        """Return the number of training batches of each of the first ``epochs`` epochs."""
        windows = self._training_windows()
        return [len(windows.windows(epoch)) for epoch in range(epochs)]

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._whole(self.validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._whole(self.test)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of the text as one row. An end of line precedes it, so its first word is predicted too."""
        if self.text is None:
            tokens_N = self.tokens.parts["test"]
        else:
            tokens_N = number_text(self.text, self.reading, self.vocabulary)
        if self.reading.end_of_line is not None:
            tokens_N = np.concatenate([self.vocabulary.numbers([self.reading.end_of_line]), tokens_N])
        if len(tokens_N) < 2:
            raise DataError(f"{self.text} must have at least two words if end_of_line is null, got one")
        rank, world_size = self._processes()
        return self._whole(Rows(tokens_N, 1, rank, world_size))

    def state_dict(self) -> dict[str, Any]:
        """Return the digest of the vocabulary and the position in the training data, for a checkpoint."""
        words = {"vocabulary": self.vocabulary.digest, "end_of_line": self.reading.end_of_line}
        return {**words, **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the model of the checkpoint has the same vocabulary."""
        if state_dict["vocabulary"] != self.vocabulary.digest:
            raise DataError(
                f"the vocabulary of {self.file_names['train']} differs from that of the checkpoint. Use the corpus of "
                "its training, or --data.vocabulary with the vocabulary.txt of its run."
            )
        super().load_state_dict(state_dict)

    def _reading(self) -> dict[str, Any]:
        return {**super()._reading(), "window": self.window, "random_windows": int(self.random_windows)}

    def _training_windows(self) -> TrainingWindows:
        return TrainingWindows(self.train.steps, self.window, seed=run_seed() or 0, random=self.random_windows)

    def _whole(self, rows: Rows) -> DataLoader[Batch]:
        """Return a loader of a text for evaluation.

        A window has as many tokens as in training, so the fewer the rows, the longer it is. The result is the same,
        because the state is carried from window to window.
        """
        longer = self.batch_size * self.window // rows.count
        return self._stream(rows, Windows(rows.steps, max(self.window, longer)))

    def _stream(self, rows: Rows, windows: Sampler[Window]) -> DataLoader[Batch]:
        # a separate generator: each pass of a loader draws a number, which must not change dropout
        return DataLoader(
            rows,
            batch_sampler=windows,  # type: ignore[arg-type]  # windows instead of lists of indices
            collate_fn=whole_batch,
            generator=torch.Generator(),
        )

    def _given_vocabulary(self) -> Vocabulary | None:
        if self.vocabulary_file is None:
            return None
        try:
            return Vocabulary(self.vocabulary_file.read_text(encoding="utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the vocabulary {self.vocabulary_file} cannot be read: {error}") from error

    def _cache_folder(self, train: Path) -> Path:
        """Return the cache folder, a different one for each folder that holds a corpus."""
        place = hashlib.sha256(str(train.resolve()).encode()).hexdigest()[:8]
        return (self.cache or self.root / "prepared") / f"{type(self).__name__}-{place}"

    def _find(self, name: str) -> Path:
        """Return the path of the file ``name`` in the first folder that has it."""
        paths = [self.root / folder / name for folder in self.folders]
        found = next((path for path in paths if path.is_file()), None)
        if found is not None:
            return found
        if folder := next((path for path in paths if path.is_dir()), None):
            raise DataError(f"{folder} must be a text file, got a folder")
        raise DataError(
            f"{name} is missing (searched as {', '.join(map(str, paths))}). Put it there, or set --data.root."
        )
