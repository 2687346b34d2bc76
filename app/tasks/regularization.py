"""The regularization of AWD-LSTM language models: dropout probabilities and penalties on the outputs.

Shapes: B batch, T time, H features of the last layer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from cells.validation import number_in


@dataclass(frozen=True)
class Regularization:
    """Dropout and activation penalties of a language model. The defaults are those of AWD-LSTM on Penn Treebank.

    Source: Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018.

    Args:
        output_dropout: Dropout probability of the last layer's features; a window has one mask for all its steps.
        layer_dropout: Dropout probability of the features between layers, with masks of the same kind.
        input_dropout: Dropout probability of the features of the embedding, with masks of the same kind.
        word_dropout: Probability of dropping a word from the embedding, in all its occurrences in a window.
        weight_dropout: Dropout probability of the entries of each layer's ``weight_hh``; one mask per window.
        activation_regularization: alpha in alpha mean(y^2), added to the loss; y is the last layer's output after
            dropout.
        temporal_activation_regularization: beta in beta mean((y_t - y_{t-1})^2), added to the loss; y is the last
            layer's output before dropout.

    Raises:
        ValueError: If a dropout probability is not in [0, 1), or a factor is negative.
    """

    output_dropout: float = 0.4
    layer_dropout: float = 0.25
    input_dropout: float = 0.4
    word_dropout: float = 0.1
    weight_dropout: float = 0.5
    activation_regularization: float = 2.0
    temporal_activation_regularization: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            number_in("[0, 1)" if name.endswith("dropout") else "[0, inf)", name, value)

    def penalties(self, y_BTH: Tensor, dropped_BTH: Tensor) -> list[Tensor]:
        """Return the terms that are added to the training loss.

        Args:
            y_BTH: Outputs of the last layer before dropout.
            dropped_BTH: The same after dropout.
        """
        terms = []
        if self.activation_regularization:
            terms.append(self.activation_regularization * dropped_BTH.square().mean())
        if self.temporal_activation_regularization and y_BTH.shape[1] > 1:
            differences_BTH = y_BTH[:, 1:] - y_BTH[:, :-1]
            terms.append(self.temporal_activation_regularization * differences_BTH.square().mean())
        return terms
