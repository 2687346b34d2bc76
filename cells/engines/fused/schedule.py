"""A step split into matrix products and pointwise stages.

The values of a step are of these kinds:

- hoisted: they depend on weights alone, and are computed once per sequence by torch, before the loop;
- sequences: they depend on x (and weights) but on no product, and are computed for all steps by torch, before the loop;
- accumulators: sums of products with weights, and a bias; the products with sequences are computed for many steps at
  once, those with the state at every step;
- pointwise: everything else.

Accumulators and pointwise values alternate in stages. Stage 0 comes after the products with the state. A product of a
value that stage k computes (``r * h`` in a minimal gated unit) belongs to stage k + 1. The last stage gives the output
and the next state. Every stage computes what it needs from states, sequences and accumulators, so that nothing but
these is kept for the backward pass.

Shapes: N features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx


@dataclass(frozen=True)
class Operand:
    """The left factor of a product: a sequence, a leaf of the state, or a value of the stage before."""

    kind: Literal["sequence", "leaf", "value"]
    index: int


@dataclass(frozen=True)
class Product:
    """operand @ matrix; ``matrix`` is the place among the results of the prologue."""

    operand: Operand
    matrix: int


@dataclass
class Accumulator:
    """A sum of products.

    Attributes:
        width: Number of features.
        products: What is added, those with sequences first.
        bias_row: Whether the matrix of the first product has one row more at its end: the bias, the weight of a 1.
        bias: Place of the bias among the results of the prologue, where no product is with a sequence.
        stage: The stage that reads it first.
    """

    width: int
    products: list[Product]
    bias_row: bool
    bias: int | None
    stage: int

    @property
    def by_time(self) -> list[Product]:
        """The products with sequences."""
        return [product for product in self.products if product.operand.kind == "sequence"]

    @property
    def by_step(self) -> list[Product]:
        """The products with the state, or with what a stage computes."""
        return [product for product in self.products if product.operand.kind != "sequence"]


@dataclass
class Stage:
    """One pointwise part.

    Attributes:
        function: Takes leaves, accumulators, sequences, parameters and numbers, and returns the outputs.
        values: For all but the last stage: which values of :attr:`Schedule.values` the outputs are. The outputs of the
            last stage are y and the next leaves.
    """

    function: fx.GraphModule
    values: list[int]


@dataclass
class Schedule:
    """How a sequence is computed.

    Attributes:
        rows: The batch size of the trace.
        prologue: Takes x as (rows, I), and the tensors of the step; returns matrices, biases, parameters and sequences.
        results: What each result of the prologue is.
        numbers: Constants of the step.
        leaves: An example of each leaf of the state.
        sequences: Width of each sequence.
        read: The sequences that stages read, with an example for one step.
        accumulators: In the order of their stages.
        parameters: Places of the per-unit parameters among the results of the prologue, and an example for the rows.
        values: Widths of the operands that stages compute.
        stages: In order.
    """

    rows: int
    prologue: fx.GraphModule
    results: list[Literal["matrix", "vector", "sequence"]]
    numbers: list[float]
    leaves: list[torch.Tensor]
    sequences: list[int]
    read: dict[int, torch.Tensor]
    accumulators: list[Accumulator]
    parameters: list[tuple[int, torch.Tensor]]
    values: list[int]
    stages: list[Stage] = field(default_factory=list)

    @property
    def raw(self) -> list[tuple[str, torch.Tensor]]:
        """Name and an example of everything that stages read, in the order of the arguments of their functions."""
        like = next(leaf for leaf in self.leaves if leaf.is_floating_point())
        return [
            *((f"leaf{i}", leaf) for i, leaf in enumerate(self.leaves)),
            *(
                (f"accumulator{i}", like.new_empty(self.rows, accumulator.width))
                for i, accumulator in enumerate(self.accumulators)
            ),
            *((f"sequence{i}", sequence) for i, sequence in self.read.items()),
            *((f"parameter{i}", parameter) for i, (_, parameter) in enumerate(self.parameters)),
        ]
