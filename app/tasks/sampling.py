"""Text sampled from a language model.

Shapes: V words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from app.tasks.language_modeling import LanguageModel  # which imports this module


@torch.no_grad()
def sample_words(
    model: LanguageModel, prompt: Sequence[int], temperature: float = 1.0, top_k: int | None = None, seed: int = 0
) -> Iterator[int]:
    """Sample the words after a prompt, without end, with probabilities proportional to p^(1 / temperature).

    Args:
        model: A language model in evaluation mode.
        prompt: Indices of the first words, at least one.
        temperature: Temperature of the softmax, above 0.
        top_k: Number of most probable words to sample from. None: all words.
        seed: Seed of the random generator.

    Yields:
        The index of the next word.
    """
    generator = torch.Generator().manual_seed(seed)
    words, state = list(prompt), model.initial_state(1)
    while True:
        for word in words:
            log_probability_1V, state = model.step(torch.tensor([word], device=model.device), state)
        log_probability_V = log_probability_1V[0].double().cpu() / temperature
        likeliest = log_probability_V.topk(min(top_k or len(log_probability_V), len(log_probability_V)))
        chosen = torch.multinomial(likeliest.values.softmax(-1), 1, generator=generator)
        words = [int(likeliest.indices[chosen])]
        yield words[0]
