"""``python -m app generate``: text sampled from a trained language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cells
from app.commands.console import Parser, say
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from app.runs.run_directory import RunDirectory
from app.tasks import LanguageModel
from app.tasks.sampling import sample_words
from cells.validation import closest_first
from datamodules.text.vocabulary import UnknownWordError, Vocabulary, text_of


def generate(options: Sequence[str]) -> None:
    """Print a text that begins with a prompt and is continued by a trained language model, word by word.

    Raises:
        UserError: for a bad option, a checkpoint of another task, or a word of the prompt that the model does not know.
    """
    parser = Parser(prog="python -m app generate", description="Continue a text by a trained language model.")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint in the run directory of the training")
    parser.add_argument("--prompt", default="", help="the words to begin with (default: the start of a line)")
    parser.add_argument("--length", type=int, default=100, help="words to add (default: 100)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier words (default: 1)")
    parser.add_argument("--top_k", type=int, help="draw from the K most probable words only (default: from all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    given = parser.parse_args(options)
    if given.length < 1:
        raise UserError(f"length is {given.length}; an integer of at least 1 is expected")
    if not given.temperature > 0:
        raise UserError(f"temperature is {given.temperature}; a number above 0 is expected")
    if given.top_k is not None and given.top_k < 1:
        raise UserError(f"top_k is {given.top_k}; an integer of at least 1 is expected")

    cells.load_entry_points()
    checkpoint = read_checkpoint(given.ckpt_path)
    if "vocabulary_size" not in checkpoint["hyper_parameters"]:
        raise UserError(f"ckpt_path is '{given.ckpt_path}', which holds no language model")
    vocabulary, end_of_line = _vocabulary(checkpoint, given.ckpt_path)
    model = LanguageModel.load_from_checkpoint(given.ckpt_path, map_location="cpu", weights_only=True).eval()
    try:
        start = vocabulary.numbers([end_of_line] if end_of_line else [])  # a text begins where a line has ended
        prompt = vocabulary.numbers(given.prompt.split())
    except UnknownWordError as error:
        word = error.args[0]
        raise UserError(
            f"prompt has the word {word!r}, which the model does not know; it knows, closest first: "
            f"{closest_first(word, vocabulary.words)}"
        ) from error
    if not start + prompt:
        raise UserError("prompt is ''; at least one word is expected, since lines of the training text have no end")
    drawn = sample_words(model, start + prompt, given.temperature, given.top_k, given.seed)
    numbers = [*prompt, *islice(drawn, given.length)]
    say(text_of([vocabulary.words[number] for number in numbers], end_of_line))


def _vocabulary(checkpoint: Mapping[str, Any], path: Path) -> tuple[Vocabulary, str | None]:
    """The words that a run wrote beside its checkpoints, and the one that ends a line."""
    data = next((part for part in checkpoint.values() if isinstance(part, dict) and "end_of_line" in part), None)
    file = RunDirectory.of_checkpoint(path).path / "vocabulary.txt"
    try:
        vocabulary = Vocabulary(file.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the words of the model are expected in {file}, which cannot be read: {error}") from error
    if data is None or vocabulary.digest != data["vocabulary"]:
        raise UserError(f"the words in {file} are not those that the model of {path} was trained on")
    return vocabulary, data["end_of_line"]
