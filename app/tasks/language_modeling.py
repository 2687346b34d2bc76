"""Language modeling by words or characters.

Shapes: B batch, T time, E embedding_size, H features of the last layer, V words, N = B T positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice, pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from app.optim.nt_asgd import NTASGD
from app.optim.parameter_groups import OptimizerFactory
from app.plots.tensorboard import Board
from app.runs.lightning_internals import is_attached
from app.tasks.base import CellFactory, Part, StepOutput, Task
from app.tasks.carried_states import CarriedStates
from app.tasks.dropouts import LockedDropout, WordDropout, run_with_weight_dropout
from app.tasks.regularization import Regularization
from app.tasks.sampling import sample_words
from cells import Cell
from cells.stack import Norm, make_norm, run_layers
from cells.state import State
from cells.validation import positive_int
from datamodules import Batch, Corpus
from datamodules.base import IGNORED

SHOWN = 100  # words of the sample in TensorBoard
CARRIED = "carried_state"  # checkpoint entry: the state in which the next training window starts
AWD_LSTM = Regularization()


class LanguageModel(Task):
    """Prediction of the next word: p = softmax(W y_t + b), y = cell_L(.. cell_1(embedding of the words)).

    Batches are windows of a stream: ``inputs`` and ``targets`` (B, T), indices of words, and ``reset`` (B,), True for
    rows that start from the initial state. All other rows continue from the state after the previous window (truncated
    back-propagation through time). The loss is the mean cross-entropy per word, without targets of -100.

    The embedding is initialized uniformly in [-0.1, 0.1]. Model, regularization and optimizer follow AWD-LSTM (Merity,
    Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018).

    Args:
        cell: The recurrent cell of each layer: called with (input_size, hidden_size).
        vocabulary_size: Number of words, V. The command line takes it from the data.
        embedding_size: Number of features of a word's embedding, E.
        hidden_sizes: Hidden units of each layer, first layer first.
        residual: Whether the input of a layer is added to its output, where they have the same width.
        norm: Normalization of what the next layer or the softmax reads: ``none``, ``layer`` or ``rms``. The embedding
            is not normalized. AWD-LSTM has neither residual connections nor normalization.
        tied: Whether the embedding is also the weight of the softmax. The last layer must then have E units.
        adaptive_cutoffs: Word indices at which the adaptive softmax (Grave et al. 2017) divides a large vocabulary,
            such as [20000, 60000]. Needs ``tied`` false. None: one softmax over all words.
        regularization: Dropout and activation penalties.
        lr_window: Window length to which the optimizer's learning rate refers. A window of length T is trained with
            the learning rate times T / lr_window. None: the learning rate does not depend on T.
        optimizer: Called with the parameters; returns the optimizer.
        **kwargs: Further arguments of :class:`app.tasks.base.Task`.

    Raises:
        ValueError: If an argument is out of range, or the weights are to be dropped of a cell without ``weight_hh``.
    """

    required_sizes = ("vocabulary_size",)
    batch_dimensions = (("inputs", 2), ("targets", 2))
    monitor = "validation/perplexity"
    mode = "min"

    def __init__(
        self,
        cell: CellFactory,
        vocabulary_size: int,
        embedding_size: int = 400,
        hidden_sizes: Sequence[int] = (1150, 1150, 400),
        tied: bool = True,
        adaptive_cutoffs: list[int] | None = None,
        regularization: Regularization = AWD_LSTM,
        lr_window: int | None = 70,
        optimizer: OptimizerFactory = NTASGD,
        residual: bool = False,
        norm: Norm = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer=optimizer, **kwargs)
        positive_int("vocabulary_size", vocabulary_size)
        positive_int("embedding_size", embedding_size)
        if lr_window is not None:
            positive_int("lr_window", lr_window)
        sizes = [embedding_size, *hidden_sizes]
        _check_layers(sizes, tied)
        _check_cutoffs(adaptive_cutoffs, vocabulary_size, tied)
        self.embedding = nn.Parameter(torch.empty(vocabulary_size, embedding_size).uniform_(-0.1, 0.1))
        self.layers = nn.ModuleList(cell(below, size) for below, size in pairwise(sizes))
        self.norms = nn.ModuleList(make_norm(norm, size) for size in hidden_sizes)
        self.residual = residual
        if regularization.weight_dropout and not hasattr(self.cell, "weight_hh"):
            raise ValueError(
                f"weight_dropout must be 0 for {type(self.cell).__name__}, which has no weight_hh, got "
                f"{regularization.weight_dropout}"
            )
        self.adaptive: nn.AdaptiveLogSoftmaxWithLoss | None = None
        self.softmax_weight: nn.Parameter | None = None
        self.softmax_bias: nn.Parameter | None = None
        if adaptive_cutoffs is not None:
            self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(sizes[-1], vocabulary_size, adaptive_cutoffs)
        else:
            self.softmax_bias = nn.Parameter(torch.zeros(vocabulary_size))
            if not tied:
                self.softmax_weight = nn.Parameter(torch.empty(vocabulary_size, sizes[-1]).uniform_(-0.1, 0.1))
        self.regularization = regularization
        self.word_dropout = WordDropout(regularization.word_dropout)
        self.input_dropout = LockedDropout(regularization.input_dropout)
        self.layer_dropout = LockedDropout(regularization.layer_dropout)
        self.output_dropout = LockedDropout(regularization.output_dropout)
        self.lr_window = lr_window
        self.carried = CarriedStates()
        self.keep_hyperparameters(
            self.cell,
            vocabulary_size=vocabulary_size,
            embedding_size=embedding_size,
            hidden_sizes=list(hidden_sizes),
            tied=tied,
            adaptive_cutoffs=adaptive_cutoffs,
            regularization=asdict(regularization),
            lr_window=lr_window,
            residual=residual,
            norm=norm,
        )

    @property
    def unit(self) -> str:
        """What the text of the trainer is divided into: ``word`` or ``character``."""
        data = self.trainer.datamodule if is_attached(self) else None  # type: ignore[attr-defined]  # Lightning sets it
        return data.reading.unit if isinstance(data, Corpus) else "word"

    @property
    def cell(self) -> Cell:
        """The cell of the first layer; the cells of all layers are of one kind."""
        return self.cells[0]

    @property
    def cells(self) -> list[Cell]:
        """The cells of all layers, first layer first."""
        return cast("list[Cell]", list(self.layers))

    def initial_state(self, batch_size: int) -> State:
        """Return the initial state of all layers."""
        return [cell.initial_state(batch_size) for cell in self.cells]

    def forward(self, words_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the outputs (B, T, H) of the last layer, before its dropout, and the last state."""
        state = self.initial_state(len(words_BT)) if state is None else state
        x_BTE = self.input_dropout(self.word_dropout(words_BT, self.embedding))
        p = self.regularization.weight_dropout
        layers = [partial(run_with_weight_dropout, cell, p) for cell in self.cells]
        return run_layers(layers, x_BTE, state, norms=self.norms, dropout=self.layer_dropout, residual=self.residual)

    def step(self, words_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the log-probabilities (B, V) of the word after ``words_B``, without dropout, and the next state."""
        steps, no_dropout = [cell.step for cell in self.cells], nn.Identity()
        y_BH, state = run_layers(
            steps, self.embedding[words_B], state, norms=self.norms, dropout=no_dropout, residual=self.residual
        )
        return self.log_probabilities(y_BH), state

    def log_probabilities(self, y_NH: Tensor) -> Tensor:
        """Return the log-probabilities (N, V) of the next word for outputs of the last layer."""
        if self.adaptive is not None:
            log_probability_NV: Tensor = self.adaptive.log_prob(y_NH)
            return log_probability_NV
        return self._logits(y_NH).log_softmax(-1)

    def negative_log_likelihood(self, y_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Return - log p of each target (N,), in nats; 0 for targets of -100."""
        if self.adaptive is None:
            return F.cross_entropy(self._logits(y_NH), targets_N, reduction="none", ignore_index=IGNORED)
        log_probability_N = self.adaptive(y_NH, targets_N.clamp(min=0)).output
        return torch.where(targets_N != IGNORED, -log_probability_N, 0)

    def _logits(self, y_NH: Tensor) -> Tensor:
        weight_VH = self.embedding if self.softmax_weight is None else self.softmax_weight
        return F.linear(y_NH, weight_VH, self.softmax_bias)

    def shared_step(self, batch: Batch, part: Part) -> StepOutput:
        """Return the mean loss per word, the loss of each word (N,), and in training the penalties."""
        targets_N = batch["targets"].flatten()
        y_BTH = self._read_window(batch, part)
        dropped_BTH = self.output_dropout(y_BTH)
        nll_N = self.negative_log_likelihood(dropped_BTH.flatten(0, 1), targets_N)
        words = int((targets_N != IGNORED).sum())
        # evaluation sums in float64, so that perplexities do not depend on the windows
        total = nll_N.sum(dtype=None if self.training else self.metric_dtype)
        penalties = self.regularization.penalties(y_BTH, dropped_BTH) if part == "train" else []
        return StepOutput(total / max(words, 1), nll_N, words, penalties=penalties)

    def _read_window(self, batch: Batch, part: Part) -> Tensor:
        """Return the outputs (B, T, H) for a window, continuing from the state after the previous window."""
        initial = self.initial_state(len(batch["inputs"]))
        if part == "probe":  # a batch on its own
            y_BTH, _ = self(batch["inputs"], initial)
        else:
            y_BTH, state = self(batch["inputs"], self.carried.before_window(part, batch["reset"], initial))
            self.carried.after_window(part, state)
        return cast("Tensor", y_BTH)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.lr_factor = batch["inputs"].shape[1] / self.lr_window if self.lr_window else 1.0

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Scale the learning rate by the length of the window for one step."""
        groups = self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]  # there is one
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= self.lr_factor
        super().optimizer_step(*args, **kwargs)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def on_validation_epoch_start(self) -> None:
        self.carried.forget("validation")

    def on_test_epoch_start(self) -> None:
        self.carried.forget("test")

    def on_predict_epoch_start(self) -> None:
        self.carried.forget("predict")

    def on_validation_epoch_end(self) -> None:
        self._log_perplexity("validation")

    def on_test_epoch_end(self) -> None:
        self._log_perplexity("test")

    def _log_perplexity(self, part: Part) -> None:
        """Log exp of the mean loss over all words of all processes, and for characters the loss in bits."""
        loss = self.trainer.callback_metrics[f"{part}/loss"]
        metrics = {f"{part}/perplexity": loss.exp()}
        if self.unit == "character":
            metrics[f"{part}/bits_per_character"] = loss / math.log(2)
        self.log_dict(metrics, prog_bar=part == "validation", sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return one row per word: its index, and its log-probability given the words before it."""
        targets_N = batch["targets"].flatten()
        counted_N = targets_N != IGNORED
        nll_N = self.shared_step(batch, "predict").outputs
        return {"word": targets_N[counted_N], "log_probability": -nll_N[counted_N]}

    def prediction_table(self, predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        words = self.trainer.datamodule.vocabulary.words  # type: ignore[attr-defined]  # Lightning sets it
        return [
            {
                self.unit: [words[number] for number in batch["word"].tolist()],
                "log_probability": batch["log_probability"],
            }
            for batch in predictions
        ]

    def prediction_summary(self, predictions: Sequence[dict[str, Any]]) -> str:
        loss = -torch.cat([batch["log_probability"] for batch in predictions]).double().mean().item()
        in_bits = f", {loss / math.log(2):.4f} bits" if self.unit == "character" else ""
        return f"{loss:.4f} nats per {self.unit}{in_bits}, perplexity {math.exp(loss):.2f}"

    def metrics_from_loss(self, loss: float) -> dict[str, float]:
        metrics = {"loss": loss, "perplexity": math.exp(loss)}
        return metrics | {"bits_per_character": loss / math.log(2)} if self.unit == "character" else metrics

    def show_epoch(self, board: Board) -> None:
        """Show a text sampled from the model."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        if isinstance(data, Corpus):
            words = data.vocabulary.words
            start = data.vocabulary.numbers([data.reading.end_of_line or words[0]])
            sample = islice(sample_words(self, start), SHOWN)
            board.text("sample", data.reading.text_of([words[number] for number in sample]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        carried = self.carried.saved(self)
        if carried is not None:
            checkpoint[CARRIED] = carried

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.carried.forget("train")
        if is_attached(self) and self.trainer.state.fn == TrainerFn.FITTING:
            self.carried.restore(checkpoint.get(CARRIED), self.trainer.global_rank)


def _check_layers(sizes: Sequence[int], tied: bool) -> None:
    """Refuse sizes of embedding and layers that do not fit."""
    embedding_size, *hidden_sizes = sizes
    if not hidden_sizes:
        raise ValueError("hidden_sizes must hold at least one layer, got []")
    if tied and hidden_sizes[-1] != embedding_size:
        raise ValueError(
            f"hidden_sizes must end with the embedding_size, {embedding_size}, where tied is True, got {hidden_sizes}"
        )


def _check_cutoffs(cutoffs: Sequence[int] | None, vocabulary_size: int, tied: bool) -> None:
    """Refuse cutoffs that do not divide the vocabulary, or whose softmax cannot use the embedding."""
    if cutoffs is None:
        return
    if not all(a < b for a, b in pairwise([0, *cutoffs, vocabulary_size])):
        raise ValueError(
            f"adaptive_cutoffs must increase between 0 and the vocabulary_size, {vocabulary_size}, got {cutoffs}"
        )
    if tied:
        raise ValueError("tied must be False with adaptive_cutoffs, got True: an adaptive softmax has its own weights")
