"""Tests of texts as word numbers: words, vocabulary, cache, errors. DATA_DIR is the folder of the real data."""

from __future__ import annotations

import codecs
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from helpers.fake_corpus import small_text, write_small_corpus

from datamodules import Corpus, DataError, PennTreebank, WikiText2, WikiText103
from datamodules.text import tokens as tokens_module
from datamodules.text.vocabulary import UnknownWordError, Vocabulary

DATA_DIR = os.environ.get("DATA_DIR")
SMALL = {"batch_size": 4, "window": 7, "validation_rows": 2}


@pytest.fixture
def corpus(monkeypatch) -> Path:
    monkeypatch.delenv("DATA_DIR", raising=False)
    write_small_corpus(Path("data"))
    return Path("data")


def ready(**options) -> Corpus:
    data = Corpus(**{**SMALL, **options})
    data.prepare_data()
    data.setup()
    return data


def words_of(text: str) -> list[str]:
    return [word for line in text.splitlines() for word in [*line.split(), "<eos>"]]


def numbering(monkeypatch) -> list[str]:
    """Record the names of the files that are converted to numbers from now on."""
    read: list[str] = []
    original = tokens_module._write_numbers
    monkeypatch.setattr(
        tokens_module, "_write_numbers", lambda path, *rest: read.append(path.name) or original(path, *rest)
    )
    return read


def test_tokens_are_the_words_of_the_files(corpus):
    data = ready()
    for part, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        found = [data.vocabulary.words[number] for number in data.tokens.parts[part]]
        assert found == words_of(small_text(name))


def test_vocabulary_is_sorted_by_frequency_in_the_training_text(corpus):
    counts = Counter(words_of(small_text("train")))
    expected = sorted(counts, key=lambda word: (-counts[word], word))
    assert ready().vocabulary.words == expected
    assert ready().vocabulary_size == len(expected)


def test_unknown_words_become_unk(corpus):
    (corpus / "valid.txt").write_text("the unicorn sees nothing\n" * 5)
    data = ready()
    assert [data.vocabulary.words[number] for number in data.tokens.parts["validation"][:2]] == ["the", "<unk>"]


def test_unknown_word_without_unk_raises_with_its_line(corpus):
    train = (corpus / "train.txt").read_text().replace("<unk>", "cow")
    (corpus / "train.txt").write_text(train)
    (corpus / "valid.txt").write_text("the cat sees nothing\n" * 6 + "the cat sees unicorns\n" * 6)
    with pytest.raises(DataError, match=r"valid.txt has the word 'unicorns' in line 7, which is not in the vocabulary"):
        ready()


def test_rare_words_become_unk_with_min_frequency(corpus):
    (corpus / "train.txt").write_text("a a a b b c\n" * 1 + "a b d\n" + "a a a a a a a a a a a a\n" * 3)
    data = ready(min_frequency=2, end_of_line=None, batch_size=1)
    assert data.vocabulary.words == ["a", "b", "<unk>"]
    assert data.tokens.parts["train"][:9].tolist() == [0, 0, 0, 1, 1, 2, 0, 1, 2]


def test_vocabulary_names_the_unknown_word():
    with pytest.raises(UnknownWordError, match="c"):
        Vocabulary(["a", "b"]).numbers(["b", "c"])
    assert Vocabulary(["a", "<unk>"]).numbers(["b", "a"]) == [1, 0]
    assert Vocabulary(["a", "b"]).digest != Vocabulary(["b", "a"]).digest


def test_end_of_line_and_last_line_break_are_optional(corpus):
    text = (corpus / "test.txt").read_text()
    (corpus / "test.txt").write_text(text.rstrip())
    assert len(ready().tokens.parts["test"]) == len(words_of(text))
    bare = ready(end_of_line=None)
    assert "<eos>" not in bare.vocabulary.words
    assert len(bare.tokens.parts["test"]) == len(text.split())


def test_cache_is_used_while_nothing_changes(corpus, monkeypatch):
    first = ready()
    read = numbering(monkeypatch)
    again = ready()
    assert read == []
    assert again.vocabulary.words == first.vocabulary.words
    for part, tokens in first.tokens.parts.items():
        assert isinstance(again.tokens.parts[part], np.memmap)
        assert np.array_equal(again.tokens.parts[part], tokens)
    os.utime(corpus / "train.txt")  # a new time of modification, the same text
    ready()
    assert read == []


@pytest.mark.parametrize("change", ["text", "settings", "numbers", "index", "words", "truncated", "missing"])
def test_stale_or_damaged_cache_is_written_again(change, corpus, monkeypatch):
    ready()
    read = numbering(monkeypatch)
    folder = next((corpus / "prepared").iterdir())
    file, index = folder / "train.int32", folder / "index.json"
    options = {}
    if change == "text":
        text = (corpus / "train.txt").read_text()
        status = (corpus / "train.txt").stat()
        (corpus / "train.txt").write_text(text.replace("cat", "cow"))
        os.utime(corpus / "train.txt", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "settings":
        options["min_frequency"] = 2
    elif change == "numbers":
        damaged = bytearray(file.read_bytes())
        damaged[100] ^= 1
        file.write_bytes(damaged)
    elif change == "index":
        index.write_text(index.read_text()[:-20])
    elif change == "words":
        index.write_text(index.read_text().replace('"cat"', '"cow"'))
    elif change == "truncated":
        file.write_bytes(file.read_bytes()[:-4])
    else:
        file.unlink()
    data = ready(**options)
    assert sorted(read) == ["test.txt", "train.txt", "valid.txt"]
    assert [data.vocabulary.words[number] for number in data.tokens.parts["train"]] == words_of(
        (corpus / "train.txt").read_text()
    )
    assert not list(folder.glob(".*"))
    ready(**options)
    assert len(read) == 3


def test_failure_keeps_the_old_cache(corpus, monkeypatch):
    ready()
    folder = next((corpus / "prepared").iterdir())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (corpus / "train.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"train.txt must be UTF-8 text, got .* near line 1"):
        ready()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_unwritable_cache_names_the_option(corpus):
    Path("file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written: .*Set another folder with --data.cache"):
        ready(cache="file/below")
    assert ready(cache="elsewhere").vocabulary_size > 0
    assert not (corpus / "prepared").exists()


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ({"valid": ""}, {}, "valid.txt must be a text, got an empty file"),
        ({"train": "  \n \n"}, {}, "train.txt must be a text, got an empty file"),
        (
            {"test": "cat"},
            {"end_of_line": None},
            r"test.txt must have at least 2 words for each of the 1 rows .*, got 1 words",
        ),
        (
            {"train": "cat <unk>"},
            {"batch_size": 4},
            "train.txt must have at least 2 words for each of the 4 rows .*, got 3 words",
        ),
        (
            {"train": "cat <unk>\n" * 20},
            {"batch_size": 2, "window": 70},
            "window must be less than .* 30 .*train.txt has 60 words in 2 rows.*got 70",
        ),
        (
            {"train": "cat <unk>\n" * 20},
            {"batch_size": 2, "window": 30},
            "window must be less than the length of a row, 30 .*, got 30",
        ),
        (
            {"valid": "cat\n"},
            {"validation_rows": 3},
            "valid.txt must have at least 2 words for each of the 3 rows .*, got 2 words",
        ),
    ],
)
def test_too_short_texts_raise(texts, options, message, corpus):
    for part, text in texts.items():
        (corpus / f"{part}.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        ready(**options)


def test_folder_in_place_of_a_text_is_named(corpus):
    with pytest.raises(DataError, match=r"^data must be a text file, got a folder"):
        ready(train=".")


def test_byte_order_mark_is_not_part_of_the_first_word(corpus):
    expected = ready().vocabulary.words
    text = (corpus / "train.txt").read_text()
    (corpus / "train.txt").write_bytes(codecs.BOM_UTF8 + text.lstrip().encode())
    data = ready()
    assert data.vocabulary.words == expected
    assert [data.vocabulary.words[number] for number in data.tokens.parts["train"]] == words_of(text)
    Path("words.txt").write_bytes(codecs.BOM_UTF8 + data.run_files()["vocabulary.txt"].encode())
    assert Corpus(vocabulary="words.txt").vocabulary.words == expected


def test_missing_file_is_named_with_all_places(corpus):
    (corpus / "valid.txt").unlink()
    with pytest.raises(DataError, match=r"valid.txt is missing .searched as data/valid.txt.. Put it there"):
        ready()
    with pytest.raises(DataError, match=r"wiki.train.tokens is missing .*data/wikitext-103/wiki.train.tokens"):
        WikiText103().prepare_data()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
        ({"validation_rows": 0}, "validation_rows must be an integer of at least 1, got 0"),
        ({"test_rows": -1}, "test_rows must be an integer of at least 1, got -1"),
        ({"min_frequency": 0}, "min_frequency must be an integer of at least 1, got 0"),
        ({"end_of_line": "end of line"}, "end_of_line must be a word without white space, or null, got 'end of line'"),
        ({"end_of_line": ""}, "end_of_line must be a word without white space, or null, got ''"),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Corpus(**options)


def test_other_file_names_and_corpora(corpus):
    write_small_corpus(Path("data/wikitext-2"), "wiki.{}.tokens")
    data = WikiText2(**SMALL)
    data.prepare_data()
    assert data.vocabulary_size == ready().vocabulary_size
    (corpus / "train.txt").rename(corpus / "lines")
    assert ready(train="lines").vocabulary_size == data.vocabulary_size


def test_text_to_predict_needs_only_a_vocabulary(corpus):
    data = ready()
    Path("words.txt").write_text(data.run_files()["vocabulary.txt"])
    Path("own.txt").write_text("a bird sees the unicorn\n")
    alone = Corpus(root="nowhere", text="own.txt", vocabulary="words.txt")
    alone.prepare_data()
    alone.setup("predict")
    (batch,) = alone.predict_dataloader()
    assert alone.vocabulary_size == data.vocabulary_size
    words = data.vocabulary.words
    assert [words[number] for number in batch["inputs"][0]] == ["<eos>", "a", "bird", "sees", "the", "<unk>"]
    assert [words[number] for number in batch["targets"][0]] == ["a", "bird", "sees", "the", "<unk>", "<eos>"]
    with pytest.raises(DataError, match=r"the vocabulary absent.txt cannot be read"):
        _ = Corpus(vocabulary="absent.txt").vocabulary


def test_checkpoint_with_another_vocabulary_is_refused(corpus):
    state = ready().state_dict()
    ready().load_state_dict(state)
    (corpus / "train.txt").write_text("one more\n" + (corpus / "train.txt").read_text())
    with pytest.raises(DataError, match=r"the vocabulary of train.txt differs from that of the checkpoint"):
        ready().load_state_dict(state)


class Answer:
    """Answer of a server."""

    def __init__(self, content: bytes) -> None:
        self.content, self.headers = content, {"Content-length": str(len(content))}

    def iter_content(self, size):
        yield self.content


def test_penn_treebank_download_is_verified_by_checksum(monkeypatch):
    monkeypatch.delenv("DATA_DIR", raising=False)
    asked = []
    monkeypatch.setattr(requests, "get", lambda url, **_: asked.append(url) or Answer(b"the cat\n"))
    with pytest.raises(
        DataError, match=r"MD5 checksum of .* must be f26c4b92c5fdc7b3f8c7cdcb991d8420, got .*Put it into"
    ):
        PennTreebank().prepare_data()
    assert [url.rpartition("/")[2] for url in asked] == ["ptb.train.txt"]
    assert list(Path("data/penn-treebank").iterdir()) == []


def test_penn_treebank_without_a_network_names_the_file(monkeypatch):
    monkeypatch.delenv("DATA_DIR", raising=False)

    def refuse(url, **_):
        raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(
        DataError, match=r"ptb.train.txt is missing and cannot be downloaded from .* \(no route to host\)"
    ):
        PennTreebank().prepare_data()


def test_existing_files_are_not_downloaded(monkeypatch):
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr(requests, "get", None)
    write_small_corpus(Path("data/ptb"), "ptb.{}.txt")
    data = PennTreebank(**SMALL)
    data.prepare_data()
    assert len(data.tokens.parts["validation"]) == len(words_of(small_text("valid")))


@pytest.mark.data
@pytest.mark.skipif(DATA_DIR is None, reason="DATA_DIR is not set")
def test_penn_treebank_has_its_published_size():
    data = PennTreebank(cache="cache")
    data.prepare_data()
    data.setup()
    counts = {part: len(tokens) for part, tokens in data.tokens.parts.items()}
    assert counts == {"train": 929_589, "validation": 73_760, "test": 82_430}
    assert data.vocabulary_size == 10_000
    assert data.tokens.parts["train"].max() == 9_999
    assert torch.equal(
        next(iter(data.test_dataloader()))["inputs"][0, :1], torch.tensor(data.vocabulary.numbers(["no"]))
    )


def test_windows_of_evaluation_have_as_many_words_as_those_of_training(corpus):
    data = ready(root="data")
    for loader, rows in ((data.val_dataloader(), 2), (data.test_dataloader(), 1)):
        *windows, last = [batch["inputs"] for batch in loader]
        assert {tuple(window.shape) for window in windows} == {(rows, 4 * 7 // rows)}
        assert last.shape[1] <= 4 * 7 // rows
        assert sum(window.shape[1] for window in (*windows, last)) == loader.dataset.steps
