"""Language models from the command line: training, evaluation, generation, prediction."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.fake_corpus import write_small_corpus
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.commands.main import main
from app.tasks import LanguageModel
from app.tasks.sampling import sample_words
from cells import LSTM


@pytest.fixture
def run(trained_language_model) -> Path:
    return trained_language_model


def generated(run: Path, capsys, *options: str) -> str:
    capsys.readouterr()
    assert main(["generate", "--ckpt_path", str(run / "checkpoints/best.ckpt"), *options]) == 0
    return capsys.readouterr().out


def test_run_has_its_vocabulary_and_its_baselines(run):
    words = (run / "vocabulary.txt").read_text().split()
    results = json.loads((run / "results.json").read_text())
    assert "<eos>" in words
    assert len(words) == len(set(words)) == results["preparation"]["vocabulary"]
    assert results["test"]["perplexity"] == pytest.approx(math.exp(results["test"]["loss"]), rel=1e-5)
    assert results["baselines"].keys() == {
        f"{model}, {part}" for model in ("unigram", "Kneser-Ney bigram") for part in ("validation", "test")
    }
    assert (
        results["baselines"]["Kneser-Ney bigram, test"] < results["baselines"]["unigram, test"] < math.log(len(words))
    )
    assert results["monitor"] == "validation/perplexity"


def test_text_is_continued(run, capsys):
    words = set((run / "vocabulary.txt").read_text().split()) - {"<eos>"}
    text = generated(run, capsys, "--prompt", "the cat", "--length", "60")
    assert text.startswith("the cat ")
    assert set(text.split()) <= words
    assert len(text.split()) + text.strip("\n").count("\n") in (61, 62)  # a last end of line is not seen
    assert text == generated(run, capsys, "--prompt", "the cat", "--length", "60")
    assert text != generated(run, capsys, "--prompt", "the cat", "--length", "60", "--seed", "1")


def test_without_a_prompt_a_line_begins(run, capsys):
    words = set((run / "vocabulary.txt").read_text().split()) - {"<eos>"}
    assert set(generated(run, capsys, "--length", "50").split()) <= words


def test_words_are_sampled_with_their_probabilities():
    torch.manual_seed(0)
    task = LanguageModel(LSTM, vocabulary_size=5, embedding_size=4, hidden_sizes=[4]).eval()
    with torch.no_grad():
        task.softmax_bias.copy_(torch.tensor([2.0, 1.0, 0.0, -1.0, 1.5]))
        state = task.initial_state(1)
        for word in (3, 1):
            log_probability, state = task.step(torch.tensor([word]), state)

    def frequencies(temperature: float, top_k: int | None) -> torch.Tensor:
        drawn = [next(sample_words(task, [3, 1], temperature, top_k, seed)) for seed in range(200)]
        return torch.bincount(torch.tensor(drawn), minlength=5) / 200

    for temperature in (1.0, 0.5):
        expected = (log_probability[0] / temperature).softmax(-1)
        assert (frequencies(temperature, None) - expected).abs().max() < 0.13  # 3.7 standard errors at the most
    assert torch.count_nonzero(frequencies(1.0, 2)) == 2
    assert frequencies(1.0, 1)[log_probability.argmax()] == 1


def test_text_is_continued_by_characters(capsys):
    write_small_corpus(Path("data"))
    options = ["--data", "Corpus", "--data.root", "data", "--data.unit", "character", "--data.batch_size", "4"]
    options += ["--model", "LanguageModel", "--model.cell", "LSTM", "--model.embedding_size", "8"]
    options += ["--model.hidden_sizes", "[8]", "--model.regularization.weight_dropout", "0"]
    options += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    assert main(["fit", *options, "--trainer.enable_progress_bar", "false", "--run_dir", "run"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"baseline: Kneser-Ney trigram, test .* \d\.\d+", printed)
    results = json.loads(Path("run/results.json").read_text())
    bits = results["test"]["bits_per_character"]
    assert bits == pytest.approx(results["test"]["loss"] / math.log(2))
    text = generated(Path("run"), capsys, "--prompt", "the ca", "--length", "30")
    assert text.startswith("the ca")
    assert 30 <= len(text) <= 37  # a space before the end of a line is not shown
    assert main(["generate", "--ckpt_path", "run/checkpoints/best.ckpt", "--prompt", "the @"]) == 2
    assert "does not contain the character '@' of the prompt" in capsys.readouterr().err
    assert main(["predict", "--ckpt_path", "run/checkpoints/best.ckpt", "--output", "characters.csv"]) == 0
    assert " bits, perplexity" in capsys.readouterr().out
    with Path("characters.csv").open() as file:
        assert next(file).strip() == "index,character,log_probability"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "the unicorm"], None),
        (["--length", "0"], "--length must be above 0, got 0"),
        (["--temperature", "0"], "--temperature must be above 0, got 0"),
        (["--top_k", "0"], "--top_k must be above 0, got 0"),
        (["--top_k", "few"], "--top_k must be"),
    ],
)
def test_invalid_option_gives_one_line(options, message, run, capsys):
    status = main(["generate", "--ckpt_path", str(run / "checkpoints/best.ckpt"), *options])
    assert status == (0 if message is None else 2)  # this vocabulary has <unk>
    assert message is None or message in capsys.readouterr().err


def test_unknown_word_of_the_prompt_is_refused_with_the_closest(run, capsys):
    own = Path("run")
    shutil.copytree(run, own)
    words = (own / "vocabulary.txt").read_text()
    (own / "vocabulary.txt").write_text(words.replace("<unk>", "unicorn"))
    assert main(["generate", "--ckpt_path", "run/checkpoints/best.ckpt"]) == 2
    assert "run/vocabulary.txt is not the vocabulary that" in capsys.readouterr().err
    (own / "vocabulary.txt").unlink()
    assert main(["generate", "--ckpt_path", "run/checkpoints/best.ckpt"]) == 2
    assert "the vocabulary run/vocabulary.txt cannot be read" in capsys.readouterr().err


def test_checkpoint_of_a_classifier_is_refused(trained, capsys):
    assert main(["generate", "--ckpt_path", str(trained / "checkpoints/best.ckpt")]) == 2
    assert "must be a checkpoint of a language model" in capsys.readouterr().err


def test_predict_writes_the_words_of_a_text(run, capsys):
    Path("own.txt").write_text("the cat sees a bird\na dog hears nothing\n")
    checkpoint = str(run / "checkpoints/best.ckpt")
    options = ["--data.text", "own.txt", "--data.vocabulary", str(run / "vocabulary.txt"), "--data.root", "nowhere"]
    assert main(["predict", "--ckpt_path", checkpoint, *options, "--output", "words.csv"]) == 0
    with Path("words.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["word"] for row in rows] == [
        "the",
        "cat",
        "sees",
        "a",
        "bird",
        "<eos>",
        "a",
        "dog",
        "hears",
        "nothing",
        "<eos>",
    ]
    loss = -sum(float(row["log_probability"]) for row in rows) / len(rows)
    assert f"perplexity {math.exp(loss):.2f}" in capsys.readouterr().out


def test_evaluation_gives_the_metrics_of_the_run(run, capsys):
    capsys.readouterr()
    assert main(["test", "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("test"))
    expected = json.loads((run / "results.json").read_text())["test"]
    assert [float(value) for value in row.split()[1:]] == pytest.approx(list(expected.values()), abs=1e-3)


def test_language_model_is_not_exported(run, capsys):
    assert main(["export", "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--output", "model.pt2"]) == 2
    assert "LanguageModel reads words; only models of numeric sequences can be exported" in capsys.readouterr().err


def test_tensorboard_shows_a_text(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("watch_sample/text_summary")]
    words = set((run / "vocabulary.txt").read_text().split()) - {"<eos>"}
    assert len(shown) >= 3
    assert set(" ".join(shown).split()) <= words
