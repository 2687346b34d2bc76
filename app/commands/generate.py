"""``python -m app generate``: text sampled from a trained language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

import cells
from app.commands.class_lookup import import_named_classes
from app.commands.console import Parser, echo
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from app.runs.run_directory import RunDirectory
from app.tasks import LanguageModel
from app.tasks.sampling import sample_words
from cells.validation import closest_first
from datamodules.text.reading import Reading
from datamodules.text.vocabulary import UnknownWordError, Vocabulary


def generate(options: Sequence[str]) -> None:
    """Print a prompt and its continuation by a trained language model, word by word or character by character.

    Raises:
        UserError: for an invalid option, a checkpoint of another task, or a token outside the vocabulary.
    """
    parser = Parser(prog="python -m app generate", description="Continue a text with a trained language model.")
    parser.add_argument("--ckpt_path", type=str, required=True, help="checkpoint in the run directory of the training")
    parser.add_argument(
        "--prompt", type=str, default="", help="first words or characters; empty: the beginning of a line"
    )
    parser.add_argument("--length", type=PositiveInt, default=100, help="number of words or characters to add")
    parser.add_argument("--temperature", type=PositiveFloat, default=1.0, help="below 1: more probable tokens")
    parser.add_argument("--top_k", type=PositiveInt | None, help="sample from the K most probable tokens; default: all")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="random seed of the samples")
    given = parser.parse_args(options)
    path = Path(given.ckpt_path)

    cells.load_entry_points()
    checkpoint = read_checkpoint(path)
    if "vocabulary_size" not in checkpoint["hyper_parameters"]:
        raise UserError(f"ckpt_path must be a checkpoint of a language model, got '{path}'")
    vocabulary, reading = _vocabulary(checkpoint, path)
    import_named_classes(["--config", str(RunDirectory.of_checkpoint(path).config)])
    model = LanguageModel.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    try:
        # a text begins after the end of a line
        start = vocabulary.numbers([reading.end_of_line] if reading.end_of_line else [])
        prompt = vocabulary.numbers(reading.tokens_of_prompt(given.prompt))
    except UnknownWordError as error:
        word = error.args[0]
        raise UserError(
            f"the vocabulary of the model does not contain the {reading.unit} {word!r} of the prompt. It contains, "
            f"closest first: {closest_first(word, vocabulary.words)}"
        ) from error
    if not start + prompt:
        raise UserError(
            f"prompt must have at least one {reading.unit}, because lines of the training text have no end mark"
        )
    drawn = sample_words(model, start + prompt, given.temperature, given.top_k, given.seed)
    numbers = [*prompt, *islice(drawn, given.length)]
    echo(reading.text_of([vocabulary.words[number] for number in numbers]))


def _vocabulary(checkpoint: Mapping[str, Any], path: Path) -> tuple[Vocabulary, Reading]:
    """Return the vocabulary that ``fit`` wrote to the run directory, and the settings that divide a text.

    Raises:
        UserError: if the file cannot be read, or belongs to another model.
    """
    data = next((part for part in checkpoint.values() if isinstance(part, dict) and "end_of_line" in part), None)
    file = RunDirectory.of_checkpoint(path).path / "vocabulary.txt"
    try:
        vocabulary = Vocabulary(file.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the vocabulary {file} cannot be read: {error}") from error
    if data is None or vocabulary.digest != data["vocabulary"]:
        raise UserError(f"{file} is not the vocabulary that {path} was trained with")
    return vocabulary, Reading(data["end_of_line"], unit=data.get("unit", "word"))  # older checkpoints have words
