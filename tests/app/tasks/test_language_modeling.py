"""The language model: outputs, carried state, regularization, training, perplexity and resume."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.fake_corpus import write_small_corpus
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD, Adam

from app.callbacks.random_states import RandomStates
from app.optim.nt_asgd import NTASGD
from app.tasks import LanguageModel
from app.tasks.regularization import Regularization
from cells import DTRIV, GRU, LSTM, SRLSTM, AdamLSTM, MomentumLSTM, NesterovLSTM
from cells.state import leaves
from datamodules import Corpus

V = 11
NONE = Regularization(**{field.name: 0.0 for field in fields(Regularization)})
PLAIN = {"regularization": NONE}
CELLS = [MomentumLSTM, GRU, AdamLSTM, NesterovLSTM, partial(SRLSTM, restart_period=3), partial(DTRIV, rebase_every=2)]


def model(cell=MomentumLSTM, **options) -> LanguageModel:
    return LanguageModel(cell, **{"vocabulary_size": V, "embedding_size": 6, "hidden_sizes": [8, 7, 6], **options})


def words(*shape: int) -> torch.Tensor:
    return torch.randint(V, shape)


def batch_of(text_BT: torch.Tensor, reset=True) -> dict[str, torch.Tensor]:
    return {"inputs": text_BT[:, :-1], "targets": text_BT[:, 1:], "reset": torch.full((len(text_BT),), reset)}


@pytest.fixture
def corpus(monkeypatch) -> Corpus:
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    write_small_corpus(Path("data"))
    return small_corpus()


def small_corpus(**options) -> Corpus:
    data = Corpus(**{"batch_size": 4, "window": 60, "validation_rows": 3, **options})
    data.prepare_data()
    return data


def quiet_trainer(*callbacks: Callback, **options) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"enable_checkpointing": False, "use_distributed_sampler": False, **options}
    return Trainer(**quiet, callbacks=list(callbacks), **options)


def test_number_of_parameters_is_that_of_awd_lstm():
    with torch.device("meta"):
        parameters = LanguageModel(LSTM, vocabulary_size=10_000).parameters()
    assert sum(parameter.numel() for parameter in parameters) == 24_221_600


def test_outputs_equal_torch_lstm_with_a_tied_embedding():
    task = model(LSTM, **PLAIN).double()
    text = words(3, 9)
    y = task.embedding[text]
    for cell in task.cells:
        layer = nn.LSTM(cell.input_size, cell.hidden_size, batch_first=True).double()
        layer.load_state_dict({f"{name}_l0": tensor for name, tensor in cell.state_dict().items()})
        y, _ = layer(y)
    logits = y @ task.embedding.t() + task.softmax_bias
    found, _ = task(text)
    torch.testing.assert_close(task.log_probabilities(found), logits.log_softmax(-1))
    expected = F.cross_entropy(logits.flatten(0, 1), text.flatten(), reduction="none")
    torch.testing.assert_close(task.negative_log_likelihood(found.flatten(0, 1), text.flatten()), expected)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: getattr(cell, "func", cell).__name__)
def test_windows_with_carried_state_equal_one_long_window(cell):
    task = model(cell, regularization=Regularization(weight_dropout=0.0)).double().eval()
    text = words(3, 20)
    whole, last = task(text)
    pieces, state = [], None
    for window in text.split([7, 1, 5, 7], 1):
        y, state = task(window, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-12, atol=1e-13)
    for found, expected in zip(leaves(state), leaves(last), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: getattr(cell, "func", cell).__name__)
def test_step_equals_forward(cell):
    task = model(cell, regularization=Regularization(weight_dropout=0.0)).double().eval()
    text = words(2, 6)
    y, _ = task(text)
    state = task.initial_state(2)
    for t in range(6):
        found, state = task.step(text[:, t], state)
        torch.testing.assert_close(found, task.log_probabilities(y[:, t]), rtol=1e-12, atol=1e-12)


def test_reset_rows_start_from_the_initial_state():
    task = model(**PLAIN).double()
    text = words(3, 13)
    task._read_window(batch_of(text[:, :7]), "train")
    second = {**batch_of(text[:, 6:]), "reset": torch.tensor([False, True, False])}
    found = task._read_window(second, "train")
    whole, _ = task(text[:, :-1])
    restarted, _ = task(text[:, 6:-1])
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2], 6:])
    torch.testing.assert_close(found[1], restarted[1])


def test_carried_state_is_detached():
    task = model(**PLAIN)
    task._read_window(batch_of(words(2, 5)), "train")
    assert not any(leaf.requires_grad for leaf in leaves(task.carried.by_part["train"]))


def test_penalties_are_added_to_the_training_loss():
    terms = {"activation_regularization": 2.0, "temporal_activation_regularization": 3.0}
    task = model(regularization=replace(NONE, **terms)).double()
    task.log_part = lambda *args, **metrics: None
    batch = batch_of(words(2, 6))
    y, _ = task(batch["inputs"])
    expected = F.cross_entropy(task._logits(y).flatten(0, 1), batch["targets"].flatten())
    expected = expected + 2 * (y**2).mean() + 3 * ((y[:, 1:] - y[:, :-1]) ** 2).mean()
    torch.testing.assert_close(task.training_step(batch, 0), expected)
    short = batch_of(words(2, 2))
    assert torch.isfinite(task.training_step(short, 1))  # a window of one step has no differences between steps


def test_adaptive_softmax_equals_torch():
    task = model(tied=False, adaptive_cutoffs=[4, 8], **PLAIN)
    y, targets = torch.randn(20, 6), torch.randint(V, (20,))
    expected = -task.adaptive.log_prob(y)[torch.arange(20), targets]
    targets[3], expected[3] = -100, 0
    torch.testing.assert_close(task.negative_log_likelihood(y, targets), expected)
    torch.testing.assert_close(task.log_probabilities(y).exp().sum(-1), torch.ones(20))


def test_untied_softmax_has_its_own_weight():
    task = model(tied=False, hidden_sizes=[8], **PLAIN)
    assert task.log_probabilities(task(words(2, 3))[0]).shape == (2, 3, V)
    assert sum(p.numel() for p in task.parameters()) == V * 6 + 4 * 8 * (6 + 8 + 2) + V * 8 + V


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"hidden_sizes": [8, 7]},
            r"must end with the embedding_size, 6, where tied is True, got \[8, 7\]",
        ),
        ({"hidden_sizes": []}, r"hidden_sizes must hold at least one layer, got \[\]"),
        ({"embedding_size": 0}, "embedding_size must be a positive integer, got 0"),
        ({"lr_window": 0}, "lr_window must be a positive integer, got 0"),
        (
            {"adaptive_cutoffs": [8, 4]},
            r"cutoffs must increase between 0 and the vocabulary_size, 11, got \[8, 4\]",
        ),
        ({"adaptive_cutoffs": [4, 11]}, r"adaptive_cutoffs must increase .* got \[4, 11\]"),
        ({"adaptive_cutoffs": [4]}, "tied must be False with adaptive_cutoffs, got True"),
        ({"cell": DTRIV}, "weight_dropout must be 0 for DTRIV, which has no weight_hh, got 0.5"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


class Record(Callback):
    """Records loss, learning rate and window length of each training batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.lengths: list[int] = []

    def on_before_optimizer_step(self, trainer, task, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.lengths.append(batch["inputs"].shape[1])


@pytest.mark.parametrize("lr_window", [60, None])
def test_learning_rate_is_proportional_to_the_window(lr_window, corpus):
    record = Record()
    task = model(vocabulary_size=corpus.vocabulary_size, lr_window=lr_window, optimizer=partial(SGD, lr=0.5))
    trainer = quiet_trainer(record, max_epochs=1, limit_val_batches=0)
    trainer.fit(task, corpus)
    assert len(set(record.lengths)) > 1
    assert record.rates == [0.5 * (length / 60 if lr_window else 1) for length in record.lengths]
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("accumulate", [1, 3])
def test_schedule_spans_the_whole_run(accumulate, corpus):
    task = model(vocabulary_size=corpus.vocabulary_size, optimizer=partial(Adam, lr=0.01), lr_schedule="one_cycle")
    trainer = quiet_trainer(max_epochs=3, limit_val_batches=0, accumulate_grad_batches=accumulate)
    trainer.fit(task, corpus)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.total_steps == scheduler.last_epoch == trainer.global_step


def test_perplexity_is_over_all_words(corpus):
    """Windows of unequal length give the perplexity of one pass over each row."""
    task = model(vocabulary_size=corpus.vocabulary_size)
    (found,) = quiet_trainer().validate(task, corpus, verbose=False)
    text = torch.as_tensor(corpus.validation.tokens_BL).long()
    task.eval().double()
    with torch.no_grad():
        y, _ = task(text[:, :-1])
        loss = F.cross_entropy(task._logits(y).flatten(0, 1), text[:, 1:].flatten()).item()
    assert found["validation/loss"] == pytest.approx(loss, rel=1e-6)
    assert found["validation/perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)


def test_test_perplexity_does_not_depend_on_the_window(corpus):
    task = model(vocabulary_size=corpus.vocabulary_size)
    found = [quiet_trainer().test(task, small_corpus(window=n), verbose=False)[0] for n in (3, 50)]
    assert found[0]["test/perplexity"] == pytest.approx(found[1]["test/perplexity"], rel=1e-6)


def test_predictions_are_log_probabilities_of_words(corpus):
    task = model(vocabulary_size=corpus.vocabulary_size, **PLAIN)
    Path("own.txt").write_text("the cat sees a bird\n")
    corpus.text = Path("own.txt")
    (batch,) = quiet_trainer().predict(task, corpus)
    words = ["the", "cat", "sees", "a", "bird", "<eos>"]
    assert task.prediction_table([batch])[0]["word"] == words
    numbers = torch.tensor([corpus.vocabulary.numbers(["<eos>", *words])])
    with torch.no_grad():
        log_probabilities = task.eval().log_probabilities(task(numbers[:, :-1])[0])
    expected = log_probabilities[0, torch.arange(6), numbers[0, 1:]]
    torch.testing.assert_close(batch["log_probability"], expected)
    loss = -expected.mean().item()
    assert task.prediction_summary([batch]) == f"{loss:.4f} nats per word, perplexity {math.exp(loss):.2f}"


AT_STEPS = {"every_n_train_steps": 1}
AT_EPOCHS = {"every_n_epochs": 1, "save_on_train_epoch_end": True}


@pytest.mark.parametrize(
    ("saved", "optimizer"),
    [(AT_STEPS, partial(NTASGD, lr=1.0, nonmonotone=1)), (AT_EPOCHS, partial(Adam, lr=0.1))],
    ids=["steps", "epochs"],
)
def test_resumed_training_is_bitwise_identical(saved, optimizer, corpus, tmp_path):
    """With all dropouts, random windows, carried state and averaging; resumed within epochs and between them."""

    def fit(folder: str, checkpoint=None) -> Record:
        record = Record()
        torch.manual_seed(0 if checkpoint is None else 5)
        task = model(partial(MomentumLSTM, momentum=0.5), vocabulary_size=corpus.vocabulary_size, optimizer=optimizer)
        keep = ModelCheckpoint(tmp_path / folder, "{step}", save_top_k=-1, **saved)
        trainer = quiet_trainer(RandomStates(), record, keep, max_epochs=3, enable_checkpointing=True)
        trainer.fit(task, small_corpus(), ckpt_path=checkpoint, weights_only=True)
        return record

    uninterrupted = fit("whole")
    steps = len(uninterrupted.losses)
    paths = sorted((tmp_path / "whole").iterdir(), key=lambda path: int(path.stem.partition("=")[2]))
    chosen = paths[:2] if "every_n_epochs" in saved else paths[1 :: len(paths) // 2]
    for path in chosen:
        done = int(path.stem.partition("=")[2])
        resumed = fit(f"after-{done}", path)
        assert resumed.losses == uninterrupted.losses[done:], f"resumed after {done} of {steps} steps"
        assert resumed.lengths == uninterrupted.lengths[done:]


class RecordToFile(Record):
    """Writes the records of each process to a file at the end."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_fit_end(self, trainer, task):
        torch.save((self.losses, self.lengths), self.folder / f"losses-{trainer.global_rank}")


@pytest.mark.usefixtures("one_thread")  # before forks
def test_two_processes_give_the_metrics_of_one_and_resume_exactly(corpus, tmp_path):
    """The processes share 4 training rows (2 + 2), 3 validation rows (1 + 2) and 1 test row (0 + 1)."""

    def fit(folder: Path, checkpoint: Path | None = None) -> list:
        folder.mkdir()
        torch.manual_seed(0 if checkpoint is None else 5)
        task = model(vocabulary_size=corpus.vocabulary_size, optimizer=partial(Adam, lr=0.1))
        keep = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=3)
        parallel = {"devices": 2, "accelerator": "cpu", "strategy": "ddp_fork"}
        trainer = quiet_trainer(
            RandomStates(), RecordToFile(folder), keep, max_epochs=1, enable_checkpointing=True, **parallel
        )
        data = small_corpus(batch_size=2)
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        figures = {}
        if checkpoint is None:
            figures = trainer.validate(task, data, verbose=False)[0] | trainer.test(task, data, verbose=False)[0]
        return [task, figures, *(torch.load(folder / f"losses-{rank}") for rank in range(2))]

    task, figures, first, second = fit(tmp_path / "whole")
    assert first[1] == second[1]  # equal windows
    assert first[0] != second[0]  # with different rows
    alone = quiet_trainer(devices=1, accelerator="cpu")
    for found in (alone.validate(task, corpus, verbose=False)[0], alone.test(task, corpus, verbose=False)[0]):
        for name, value in found.items():
            assert figures[name] == pytest.approx(value, rel=1e-6)
    _, _, *resumed = fit(tmp_path / "again", tmp_path / "whole" / "step=3.ckpt")
    assert [losses for losses, _ in resumed] == [first[0][3:], second[0][3:]]


def test_bits_per_character_are_the_loss_in_bits(corpus, capsys):
    data = small_corpus(unit="character")
    task = LanguageModel(GRU, data.vocabulary_size, 6, [8], tied=False, regularization=NONE)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=2)
    trainer.fit(task, data)
    (found,) = trainer.test(task, data, verbose=False)
    assert found["test/bits_per_character"] == pytest.approx(found["test/loss"] / math.log(2))
    assert found["test/perplexity"] == pytest.approx(2 ** found["test/bits_per_character"])
    assert trainer.callback_metrics["test/bits_per_character"] > 0
    assert task.metrics_from_loss(math.log(2))["bits_per_character"] == 1
