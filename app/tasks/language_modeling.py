"""Word-level language modelling.

Shapes: B batch, T time, E embedding_size, H features of the last cell, V words, N positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils._pytree import tree_structure, tree_unflatten

from app.optim.averaging import NTASGD
from app.optim.parameter_groups import OptimizerFactory
from app.plots.tensorboard import Board
from app.runs.lightning_internals import is_attached
from app.tasks.base import CellFactory, LRSchedule, Task
from app.tasks.dropouts import LockedDropout, WordDropout, run_with_weight_dropout
from cells import Cell, detach, reset_rows
from cells.state import State, leaves
from datamodules import Batch, Corpus
from datamodules.text.streams import IGNORED
from datamodules.text.vocabulary import text_of

SHOWN = 100  # words of a text that is shown
CARRIED = "carried_state"  # in a checkpoint: the state in which the next training window begins


class LanguageModel(Task):
    """The next word from all words before it: p = softmax(W y_t + b), y = cell_L(.. cell_1(embedding of the words)).

    Batches are windows of a stream: ``inputs`` and ``targets`` (B, T), numbers of words, and ``reset`` (B,), True where
    a row starts anew. The state is carried from window to window, cut from the graph. Trained by the mean cross-entropy
    of the words; a target of -100 counts for nothing.

    Dropout, penalties, initialisation of the embedding (uniform in +-0.1) and the learning rate's proportion to the
    length of the window are those of AWD-LSTM: Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language
    Models", ICLR 2018.

    Args:
        cell: The recurrent cell of each layer: called with (input_size, hidden_size).
        vocabulary_size: V; the command line takes it from the data.
        embedding_size: E, features of a word.
        hidden_sizes: Hidden units of each layer, the first one first.
        tied: Whether the embedding is also the weight of the softmax; the last layer then has E units.
        adaptive_cutoffs: For large vocabularies, the numbers of words at which torch's adaptive softmax (Grave et al.
            2017) divides them, such as [20000, 60000]; needs ``tied`` false. None: one softmax over all words.
        output_dropout: Of the features of the last layer, the same ones in all steps of a window.
        layer_dropout: The same between the layers.
        input_dropout: The same of the embedding's features.
        word_dropout: Of whole words in the embedding.
        weight_dropout: Of the entries of each layer's ``weight_hh``, other ones in each window.
        activation_penalty: alpha in alpha mean(y^2), y the last layer's output after dropout, added to the loss.
        slowness_penalty: beta in beta mean((y_t - y_{t-1})^2), y before dropout, added to the loss.
        lr_window: Length of a window at which the learning rate is the optimiser's; at another length T it is
            multiplied by T / lr_window. None: it does not depend on the length.
        optimizer: The optimiser: called with the parameters.
        lr_schedule: constant, one_cycle or cosine over the whole run, peaking at the optimiser's learning rate.
        orthogonal_optimizer: The optimiser of the cells' orthogonal parameters, if they have one of their own.

    Raises:
        ValueError: if an argument lies outside what is accepted, or the cell has no ``weight_hh`` to drop entries of.
    """

    required_sizes = ("vocabulary_size",)
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
        output_dropout: float = 0.4,
        layer_dropout: float = 0.25,
        input_dropout: float = 0.4,
        word_dropout: float = 0.1,
        weight_dropout: float = 0.5,
        activation_penalty: float = 2.0,
        slowness_penalty: float = 1.0,
        lr_window: int | None = 70,
        optimizer: OptimizerFactory = NTASGD,
        lr_schedule: LRSchedule = "constant",
        orthogonal_optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(optimizer, lr_schedule, orthogonal_optimizer)
        own = {
            "vocabulary_size": vocabulary_size,
            "embedding_size": embedding_size,
            "hidden_sizes": list(hidden_sizes),
            "tied": tied,
            "adaptive_cutoffs": adaptive_cutoffs,
            "output_dropout": output_dropout,
            "layer_dropout": layer_dropout,
            "input_dropout": input_dropout,
            "word_dropout": word_dropout,
            "weight_dropout": weight_dropout,
            "activation_penalty": activation_penalty,
            "slowness_penalty": slowness_penalty,
            "lr_window": lr_window,
        }
        _check(own)
        self.embedding = nn.Parameter(torch.empty(vocabulary_size, embedding_size).uniform_(-0.1, 0.1))
        sizes = [embedding_size, *hidden_sizes]
        self.layers = nn.ModuleList(cell(below, size) for below, size in pairwise(sizes))
        if weight_dropout and not hasattr(self.cell, "weight_hh"):
            raise ValueError(
                f"weight_dropout is {weight_dropout}, but {type(self.cell).__name__} has no weight_hh; 0 is expected"
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
        self.word_dropout = WordDropout(word_dropout)
        self.input_dropout = LockedDropout(input_dropout)
        self.layer_dropout = LockedDropout(layer_dropout)
        self.output_dropout = LockedDropout(output_dropout)
        self.weight_dropout = weight_dropout
        self.activation_penalty = activation_penalty
        self.slowness_penalty = slowness_penalty
        self.lr_window = lr_window
        self.carried: dict[str, State] = {}  # by part of the data
        self.restored: list[Tensor] | None = None
        self.keep_hyperparameters(self.cell, **own)

    @property
    def cell(self) -> Cell:
        """The cell of the first layer, which stands for all where the kind of cell is asked for."""
        return self.cells[0]

    @property
    def cells(self) -> list[Cell]:
        """The cells of all layers, from the one that reads the words on."""
        return cast("list[Cell]", list(self.layers))

    def initial_state(self, batch_size: int) -> State:
        """The state of all layers before the first word."""
        return [cell.initial_state(batch_size) for cell in self.cells]

    def forward(self, words_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The outputs y_BTH of the last layer, before their dropout, and the last state."""
        state = self.initial_state(len(words_BT)) if state is None else state
        y = self.input_dropout(self.word_dropout(words_BT, self.embedding))
        states = []
        for layer, (cell, before) in enumerate(zip(self.cells, state, strict=True)):
            y, after = run_with_weight_dropout(cell, self.weight_dropout, y, before)
            states.append(after)
            if layer < len(self.cells) - 1:
                y = self.layer_dropout(y)
        return y, states

    def step(self, words_B: Tensor, state: State) -> tuple[Tensor, State]:
        """The log-probabilities (B, V) of the word after ``words_B``, and the next state; without dropout."""
        y = self.embedding[words_B]
        states = []
        for cell, before in zip(self.cells, state, strict=True):
            y, after = cell.step(y, before)
            states.append(after)
        return self.log_probabilities(y), states

    @torch.no_grad()
    def sample(self, prompt: Sequence[int], temperature: float, top_k: int | None, seed: int) -> Iterator[int]:
        """Words that follow the prompt, without end, drawn with probabilities in proportion to p^(1 / temperature).

        Args:
            prompt: Numbers of the words to begin with, at least one.
            temperature: Above 0.
            top_k: How many of the most probable words are drawn from; None: all.
            seed: Seed of the draws.
        """
        generator = torch.Generator().manual_seed(seed)
        words, state = list(prompt), self.initial_state(1)
        while True:
            for word in words:
                log_probability_1V, state = self.step(torch.tensor([word], device=self.device), state)
            log_probability_V = log_probability_1V[0].double().cpu() / temperature
            chosen = log_probability_V.topk(min(top_k or len(log_probability_V), len(log_probability_V)))
            drawn = torch.multinomial(chosen.values.softmax(-1), 1, generator=generator)
            words = [int(chosen.indices[drawn])]
            yield words[0]

    def log_probabilities(self, y_NH: Tensor) -> Tensor:
        """The log-probability (N, V) of each word after the outputs of the last layer."""
        if self.adaptive is not None:
            log_probability_NV: Tensor = self.adaptive.log_prob(y_NH)
            return log_probability_NV
        return self._logits(y_NH).log_softmax(-1)

    def nats(self, y_NH: Tensor, targets_N: Tensor) -> Tensor:
        """- log p of each target, (N,), 0 where it is -100."""
        if self.adaptive is None:
            return F.cross_entropy(self._logits(y_NH), targets_N, reduction="none", ignore_index=IGNORED)
        counted_N = targets_N != IGNORED
        log_probability_N = self.adaptive(y_NH, targets_N.clamp(min=0)).output
        return torch.where(counted_N, -log_probability_N, 0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        y_BTH = self._read(batch, "train")
        dropped_BTH = self.output_dropout(y_BTH)
        loss = self.nats(dropped_BTH.flatten(0, 1), batch["targets"].flatten()).mean()
        self.log_part("train", batch["targets"].numel(), loss=loss.detach())
        if self.activation_penalty:
            loss = loss + self.activation_penalty * dropped_BTH.square().mean()
        if self.slowness_penalty and y_BTH.shape[1] > 1:
            loss = loss + self.slowness_penalty * (y_BTH[:, 1:] - y_BTH[:, :-1]).square().mean()
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's, with the learning rate in proportion to the length of the window."""
        groups = self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]  # there is one
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= self.lr_factor
        super().optimizer_step(*args, **kwargs)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.lr_factor = batch["inputs"].shape[1] / self.lr_window if self.lr_window else 1.0

    def on_validation_epoch_start(self) -> None:
        self._start_counting()

    def on_test_epoch_start(self) -> None:
        self._start_counting()

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._count(batch, "validation")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._count(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self._log_perplexity("validation")

    def on_test_epoch_end(self) -> None:
        self._log_perplexity("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One row a word: its number, and the logarithm of the probability that the words before it gave it."""
        counted_N = batch["targets"].flatten() != IGNORED
        nats_N = self._nats(batch, "predict")[counted_N]
        return {"word": batch["targets"].flatten()[counted_N], "log_probability": -nats_N}

    def readable(self, predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        words = self.trainer.datamodule.vocabulary.words  # type: ignore[attr-defined]  # Lightning sets it
        return [{**batch, "word": [words[number] for number in batch["word"].tolist()]} for batch in predictions]

    def probe_loss(self, batch: Batch) -> Tensor:
        y_BTH, _ = self(batch["inputs"])
        return self.nats(y_BTH.flatten(0, 1), batch["targets"].flatten()).mean()

    def observe_epoch(self, board: Board) -> None:
        """Show a text that the model made."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        if isinstance(data, Corpus):
            words, end_of_line = data.vocabulary.words, data.reading.end_of_line
            start = data.vocabulary.numbers([end_of_line or words[0]])
            drawn = islice(self.sample(start, 1.0, None, seed=0), SHOWN)
            board.text("sample", text_of([words[number] for number in drawn], end_of_line))

    def figures(self, loss: float) -> dict[str, float]:
        return {"loss": loss, "perplexity": math.exp(loss)}

    def sum_up(self, predictions: Sequence[dict[str, Any]]) -> str:
        loss = -torch.cat([batch["log_probability"] for batch in predictions]).double().mean().item()
        return f"{loss:.4f} nats per word, perplexity {math.exp(loss):.2f}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "train" in self.carried:
            checkpoint[CARRIED] = [self._of_all_processes(leaf).cpu().clone() for leaf in leaves(self.carried["train"])]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.carried.pop("train", None)
        if is_attached(self) and self.trainer.state.fn == TrainerFn.FITTING:
            self.restored = checkpoint.get(CARRIED)

    def _logits(self, y_NH: Tensor) -> Tensor:
        weight_VH = self.embedding if self.softmax_weight is None else self.softmax_weight
        return F.linear(y_NH, weight_VH, self.softmax_bias)

    def _read(self, batch: Batch, part: str) -> Tensor:
        """The outputs y_BTH for a window, from the state that the last window of ``part`` left."""
        rows = len(batch["inputs"])
        state = self.initial_state(rows)
        if part == "train" and self.restored is not None:
            self.carried[part] = self._of_this_process(self.restored, state)
            self.restored = None
        if part in self.carried:
            state = reset_rows(self.carried[part], batch["reset"], state)
        y_BTH: Tensor
        y_BTH, state = self(batch["inputs"], state)
        self.carried[part] = detach(state)
        return y_BTH

    def _nats(self, batch: Batch, part: str) -> Tensor:
        return self.nats(self._read(batch, part).flatten(0, 1), batch["targets"].flatten())

    def _start_counting(self) -> None:
        self.totals = torch.zeros(2, dtype=self.metric_dtype, device=self.device)  # nats, words

    def _count(self, batch: Batch, part: str) -> Tensor:
        nats_N = self._nats(batch, part)
        self.totals += torch.stack([nats_N.to(self.totals.dtype).sum(), (batch["targets"] != IGNORED).sum()])
        return nats_N

    def _log_perplexity(self, part: str) -> None:
        """Over all words of all processes, so that it does not depend on how they are shared or cut into windows."""
        totals = cast("Tensor", self.trainer.strategy.reduce(self.totals, reduce_op="sum"))
        loss = totals[0] / totals[1]
        self.carried.pop(part, None)
        metrics = {f"{part}/loss": loss, f"{part}/perplexity": loss.exp()}
        self.log_dict(metrics, prog_bar=part == "validation", sync_dist=True)

    def _of_all_processes(self, leaf: Tensor) -> Tensor:
        """The rows of all processes, those of the first one first."""
        if self.trainer.world_size == 1:
            return leaf
        gathered = cast("Tensor", self.all_gather(leaf))
        return gathered.flatten(0, 1)

    def _of_this_process(self, saved: list[Tensor], like: State) -> State:
        """The rows of this process of a saved state, in the form of ``like``."""
        rows = len(leaves(like)[0])
        first = rows * self.trainer.global_rank
        own = [leaf[first : first + rows].to(self.device) for leaf in saved]
        return tree_unflatten(own, tree_structure(like))


def _check(own: dict[str, Any]) -> None:
    """Refuse arguments outside what is accepted."""
    for name in ("vocabulary_size", "embedding_size"):
        if own[name] < 1:
            raise ValueError(f"{name} is {own[name]}; an integer of at least 1 is expected")
    if not own["hidden_sizes"]:
        raise ValueError("hidden_sizes is []; the hidden units of at least one layer are expected")
    for name in ("output_dropout", "layer_dropout", "input_dropout", "word_dropout", "weight_dropout"):
        if not 0 <= own[name] < 1:
            raise ValueError(f"{name} is {own[name]}; a number in [0, 1) is expected")
    for name in ("activation_penalty", "slowness_penalty"):
        if own[name] < 0:
            raise ValueError(f"{name} is {own[name]}; a number of at least 0 is expected")
    if own["lr_window"] is not None and own["lr_window"] < 1:
        raise ValueError(f"lr_window is {own['lr_window']}; an integer of at least 1 or null is expected")
    cutoffs = own["adaptive_cutoffs"]
    if cutoffs is not None and not all(a < b for a, b in pairwise([0, *cutoffs, own["vocabulary_size"]])):
        raise ValueError(
            f"adaptive_cutoffs is {cutoffs}; increasing numbers of words between 0 and {own['vocabulary_size']}, the "
            "vocabulary_size, are expected"
        )
    if own["tied"] and cutoffs is not None:
        raise ValueError("tied is True, but adaptive_cutoffs are given; a softmax that is adaptive has its own weights")
    if own["tied"] and own["hidden_sizes"][-1] != own["embedding_size"]:
        raise ValueError(
            f"hidden_sizes is {own['hidden_sizes']}; with tied True, {own['embedding_size']}, the embedding_size, "
            "is expected in the last place"
        )
