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

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from cells.engines.fused.errors import NotFusable
from cells.engines.fused.lanes import operation
from cells.engines.fused.trace import StepGraph

LIFTED_NUMBERS = {"add", "sub", "mul", "div"}  # their constants are arguments of a kernel, so that it serves all values
STRUCTURAL_NUMBERS = {0.0, 1.0, -1.0, 2.0}
FILLS = {"full", "full_like", "scalar_tensor"}


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


def make_schedule(step: StepGraph) -> Schedule:
    """Split a traced step.

    Raises:
        NotFusable: if it does not split.
    """
    return _Splitter(step).run()


@dataclass
class _Sum:
    """An affine value under construction: products of (operand, weight) and biases."""

    products: list[tuple[fx.Node, fx.Node]]
    biases: list[fx.Node]


class _Splitter:
    def __init__(self, step: StepGraph) -> None:
        self.step = step
        self.graph = step.graph
        self.nodes = list(step.graph.nodes)
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self.x, self.leaves = placeholders[0], placeholders[1 : 1 + step.leaves]
        self.by_x: set[fx.Node] = {self.x}
        self.by_state: set[fx.Node] = set(self.leaves)
        self.by_product: set[fx.Node] = set()
        self._follow()
        self.prologue = _Builder()
        for node in placeholders:
            if node not in self.leaves:
                self.prologue.place(node)
        self.rows = self.prologue.call(torch.Tensor.size, self.prologue.known[self.x], 0)
        self.results: list[Any] = []
        self.kinds: list[Literal["matrix", "vector", "sequence"]] = []
        self.sequences: list[fx.Node] = []
        self.read: list[int] = []
        self.parameters: list[tuple[fx.Node, torch.Size, int]] = []
        self.numbers: list[float] = []
        self.number_of: dict[tuple[fx.Node, int], int] = {}
        self.sums: dict[fx.Node, _Sum] = {}

    def _follow(self) -> None:
        for node in self.nodes:
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise NotFusable(f"step draws random numbers by aten.{operation(node)}")
            for reached in (self.by_x, self.by_state, self.by_product):
                if any(source in reached for source in node.all_input_nodes):
                    reached.add(node)
            if operation(node) in ("mm", "addmm") and self.per_row(node):
                self.by_product.add(node)

    def per_row(self, node: fx.Node) -> bool:
        """Whether a value belongs to the rows of the batch."""
        return node in self.by_x or node in self.by_state

    def is_sequence(self, node: fx.Node) -> bool:
        return node in self.by_x and node not in self.by_state and node not in self.by_product

    def run(self) -> Schedule:
        for node in self.nodes:
            if self.per_row(node):
                self._note_sum(node)
        roots = [node for node in self.sums if not self._absorbed(node)]
        levels = _Levels(self, roots)
        outputs: list[fx.Node] = tree_leaves(self.nodes[-1].args[0])
        for node in outputs:
            if not self.per_row(node):
                raise NotFusable("step returns a value that depends on neither the input nor the state")
        groups = self._group(roots, levels)
        values = list(
            dict.fromkeys(
                operand
                for members in groups
                for operand, _ in self.sums[members[0]].products
                if not self.is_sequence(operand) and operand not in self.leaves
            )
        )
        accumulators = [self._accumulator(members, values, levels) for members in groups]
        placed = {
            member: (index, sum(_width(before) for before in members[: members.index(member)]))
            for index, members in enumerate(groups)
            for member in members
        }
        count = max((accumulator.stage for accumulator in accumulators), default=0) + 1
        wanted = [[value for value in values if levels.stage_of_operand(value) == k + 1] for k in range(count - 1)]
        needed = [*(node for nodes in wanted for node in nodes), *outputs]
        self._find_inputs(needed, placed)
        schedule = Schedule(
            self.step.rows,
            fx.GraphModule({}, fx.Graph()),
            self.kinds,
            self.numbers,
            [_example(leaf) for leaf in self.leaves],
            [_width(node) for node in self.sequences],
            {index: _example(self.sequences[index]) for index in self.read},
            accumulators,
            [
                (place, torch.ones(self.step.rows, *shape[1:], dtype=node.meta["val"].dtype))
                for node, shape, place in self.parameters
            ],
            [_width(value) for value in values],
        )
        for nodes in wanted:
            schedule.stages.append(Stage(self._stage(nodes, placed), [values.index(node) for node in nodes]))
        schedule.stages.append(Stage(self._stage(outputs, placed), []))
        schedule.prologue = self.prologue.module(self.results)
        return schedule

    def _note_sum(self, node: fx.Node) -> None:
        """Record ``node`` if it is a product or a sum of products."""
        name = operation(node)
        if name == "addmm":
            bias: Any
            bias, operand, weight = node.args[:3]
            if node.kwargs.get("beta", 1) != 1 or node.kwargs.get("alpha", 1) != 1:
                raise NotFusable("step uses aten.addmm with factors")
            if self.is_free(bias):
                self.sums[node] = _Sum(self._products(node, operand, weight), [bias])
            elif bias in self.sums and len(bias.users) == 1:
                below = self.sums[bias]
                self.sums[node] = _Sum([*below.products, *self._products(node, operand, weight)], below.biases)
            else:
                raise NotFusable("step uses aten.addmm on a value that is no sum of products")
        elif name == "mm":
            self.sums[node] = _Sum(self._products(node, *node.args[:2]), [])
        elif name == "add" and node.kwargs.get("alpha", 1) == 1:
            a, b = node.args
            parts = [part for part in (a, b) if isinstance(part, fx.Node)]
            sums = [part for part in parts if part in self.sums and len(part.users) == 1]
            free = [part for part in parts if self.is_free(part) and self._is_bias(part, node)]
            if a is not b and sums and len(sums) + len(free) == 2:
                merged = [self.sums[part] for part in sums]
                self.sums[node] = _Sum(
                    [product for part in merged for product in part.products],
                    [*(bias for part in merged for bias in part.biases), *free],
                )

    def is_free(self, node: object) -> bool:
        return isinstance(node, fx.Node) and not self.per_row(node)

    def _is_bias(self, node: fx.Node, total: fx.Node) -> bool:
        shape = node.meta["val"].shape
        return node.meta["val"].dtype == total.meta["val"].dtype and (len(shape) < 2 or shape[0] == 1)

    def _products(self, node: fx.Node, operand: Any, weight: Any) -> list[tuple[fx.Node, fx.Node]]:
        """The products of one mm; that of joined operands is one product for each of them."""
        if not self.is_free(weight) or self.is_free(operand):
            raise NotFusable("step multiplies matrices that both depend on the input or the state")
        if operation(operand) == "cat" and self._last_dim(operand):
            found = []
            start = 0
            for part in operand.args[0]:
                if self.is_free(part):
                    raise NotFusable("step joins a weight to the input or the state")
                width = part.meta["val"].shape[1]
                found.extend(self._products(node, part, self._rows_of(weight, start, start + width)))
                start += width
            return found
        return [(operand, weight)]

    def _last_dim(self, cat: fx.Node) -> bool:
        dim = cat.args[1] if len(cat.args) > 1 else 0
        return dim in (1, -1)

    def _rows_of(self, weight: fx.Node, start: int, end: int) -> fx.Node:
        with self.graph.inserting_after(weight):
            part: fx.Node = self.graph.call_function(torch.ops.aten.slice.Tensor, (weight, 0, start, end))
        part.meta["val"] = weight.meta["val"][start:end]
        return part

    def _absorbed(self, node: fx.Node) -> bool:
        """Whether ``node`` is a part of one larger sum."""
        users = list(node.users)
        if len(users) != 1 or users[0] not in self.sums:
            return False
        terms = {"add": 2, "addmm": 1, "mm": 0}[operation(users[0])]
        return node in users[0].args[:terms]

    def _group(self, roots: Sequence[fx.Node], levels: _Levels) -> list[list[fx.Node]]:
        """Sums over the same operands belong together: one product for all of them."""
        groups: dict[object, list[fx.Node]] = {}
        for root in roots:
            operands = [operand for operand, _ in self.sums[root].products]
            key = tuple(dict.fromkeys(operands)) if len(set(operands)) == len(operands) else root
            groups.setdefault(key, []).append(root)
        return sorted(groups.values(), key=lambda members: levels.stage_of(members[0]))

    def _accumulator(self, members: list[fx.Node], values: list[fx.Node], levels: _Levels) -> Accumulator:
        first = self.sums[members[0]]
        products: list[Product] = []
        bias = self._bias(members) if any(self.sums[member].biases for member in members) else None
        bias_row = bias is not None and any(self.is_sequence(operand) for operand, _ in first.products)
        terms = sorted(enumerate(first.products), key=lambda term: not self.is_sequence(term[1][0]))
        for place, (operand, _) in terms:
            weights = []
            for member in members:
                found = self.sums[member].products
                match = found[place] if len(members) == 1 else next(term for term in found if term[0] is operand)
                weights.append(self.prologue.copy(match[1]))
            matrix = weights[0] if len(weights) == 1 else self.prologue.call(torch.cat, weights, 1)
            if bias_row and not products:
                assert bias is not None
                matrix = self.prologue.call(torch.cat, [matrix, self.prologue.call(torch.unsqueeze, bias, 0)])
            products.append(Product(self._operand(operand, values), self._result("matrix", matrix)))
        bias_place = None if bias is None or bias_row else self._result("vector", bias)
        width = sum(map(_width, members))
        return Accumulator(width, products, bias_row, bias_place, levels.stage_of(members[0]))

    def _operand(self, operand: fx.Node, values: list[fx.Node]) -> Operand:
        if self.is_sequence(operand):
            return Operand("sequence", self._sequence(operand))
        if operand in self.leaves:
            return Operand("leaf", self.leaves.index(operand))
        return Operand("value", values.index(operand))

    def _bias(self, members: list[fx.Node]) -> fx.Node:
        """The bias of an accumulator, in the prologue."""
        parts = []
        for member in members:
            width = _width(member)
            biases = [self.prologue.copy(bias) for bias in self.sums[member].biases]
            vectors = [self.prologue.call(_as_vector, bias, width) for bias in biases]
            if not vectors:
                weight = self.prologue.copy(self.sums[member].products[0][1])
                vectors = [self.prologue.call(torch.Tensor.new_zeros, weight, (width,))]
            parts.append(reduce(lambda a, b: self.prologue.call(torch.add, a, b), vectors))
        return parts[0] if len(parts) == 1 else self.prologue.call(torch.cat, parts)

    def _sequence(self, node: fx.Node) -> int:
        if node not in self.sequences:
            if node.meta["val"].dim() != 2:
                raise NotFusable(
                    f"step computes aten.{operation(node)} of the input alone with more than one dimension"
                )
            self.sequences.append(node)
            self._result("sequence", self.prologue.copy(node, (self.step.rows, self.rows)))
        return self.sequences.index(node)

    def _result(self, kind: Literal["matrix", "vector", "sequence"], node: fx.Node) -> int:
        self.results.append(node)
        self.kinds.append(kind)
        return len(self.results) - 1

    def _find_inputs(self, needed: Sequence[fx.Node], placed: dict[fx.Node, tuple[int, int]]) -> None:
        """Register the sequences and parameters that stages read."""
        seen: set[fx.Node] = set()

        def visit(node: fx.Node) -> None:
            if node in seen or node in placed or node in self.leaves:
                return
            seen.add(node)
            if self.is_sequence(node):
                if self._sequence(node) not in self.read:
                    self.read.append(self._sequence(node))
                return
            for source in node.all_input_nodes:
                if self.is_free(source) and operation(source) not in FILLS:
                    self._parameter(source, node)
                elif not self.is_free(source):
                    visit(source)

        for node in needed:
            visit(node)

    def _parameter(self, node: fx.Node, user: fx.Node) -> int:
        """Register a hoisted value that a stage reads, in the shape that it has beside ``user``."""
        rank = user.meta["val"].dim()
        value = node.meta["val"]
        if not value.dtype.is_floating_point:
            raise NotFusable(f"step combines a {value.dtype} tensor with the input or the state")
        shape = torch.Size([1] * (rank - value.dim()) + list(value.shape))
        # a single number is repeated for every unit, so that its gradient is a sum that torch computes
        beside = user.meta["val"].shape
        full = torch.Size([1, *beside[1:]]) if value.numel() == 1 and shape[-1] != beside[-1] else shape
        if shape[0] != 1 or operation(user) in ("mm", "addmm", "cat", "slice_scatter", "select_scatter"):
            raise NotFusable(f"step uses a weight in aten.{operation(user)}, which is not a pointwise operation")
        for index, (known, known_shape, _) in enumerate(self.parameters):
            if known is node and known_shape == full:
                return index
        place = self._result("vector", self.prologue.call(_expanded, self.prologue.copy(node), tuple(full)))
        self.parameters.append((node, full, place))
        return len(self.parameters) - 1

    def _stage(self, outputs: Sequence[fx.Node], placed: dict[fx.Node, tuple[int, int]]) -> fx.GraphModule:
        builder = _Builder()
        leaves = [builder.new(f"leaf{i}") for i in range(len(self.leaves))]
        count = max((index for index, _ in placed.values()), default=-1) + 1
        sums = [builder.new(f"accumulator{i}") for i in range(count)]
        sequences = {self.sequences[i]: builder.new(f"sequence{i}") for i in self.read}
        parameters = [builder.new(f"parameter{i}") for i in range(len(self.parameters))]
        numbers = builder.new("numbers")
        builder.known.update(sequences)
        builder.known.update(zip(self.leaves, leaves, strict=True))
        for node, (index, start) in placed.items():
            total = sum(_width(member) for member, (other, _) in placed.items() if other == index)
            part = sums[index]
            if _width(node) != total:
                part = builder.call(torch.ops.aten.slice.Tensor, part, 1, start, start + _width(node))
            builder.known[node] = part

        def source(user: fx.Node, node: fx.Node) -> fx.Node:
            if self.is_free(node) and operation(node) not in FILLS:
                return parameters[self._parameter(node, user)]
            return copy(node)

        def constant(node: fx.Node, place: int, value: Any) -> Any:
            lifted = isinstance(value, float) and value not in STRUCTURAL_NUMBERS and operation(node) in LIFTED_NUMBERS
            if not lifted:
                return value
            if (node, place) not in self.number_of:
                self.number_of[node, place] = len(self.numbers)
                self.numbers.append(value)
            return builder.call(operator.getitem, numbers, self.number_of[node, place])

        def copy(node: fx.Node) -> fx.Node:
            if node not in builder.known:
                args = fx.node.map_aggregate(
                    tuple(
                        constant(node, place, arg) if not isinstance(arg, fx.Node) else arg
                        for place, arg in enumerate(node.args)
                    ),
                    lambda arg: source(node, arg) if isinstance(arg, fx.Node) and arg.graph is self.graph else arg,
                )
                kwargs = fx.node.map_arg(node.kwargs, lambda arg: source(node, arg))
                new = builder.graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
                builder.known[node] = new
            return builder.known[node]

        return builder.module([copy(node) for node in outputs])


class _Levels:
    """The stage of each value."""

    def __init__(self, splitter: _Splitter, roots: Sequence[fx.Node]) -> None:
        self.splitter = splitter
        self.roots = set(roots)
        self.known: dict[fx.Node, int] = {}

    def stage_of(self, root: fx.Node) -> int:
        if root not in self.known:
            operands = [operand for operand, _ in self.splitter.sums[root].products]
            self.known[root] = max(map(self.stage_of_operand, operands))
        return self.known[root]

    def stage_of_operand(self, operand: fx.Node) -> int:
        if self.splitter.is_sequence(operand) or operand in self.splitter.leaves:
            return 0
        return 1 + self._latest(operand)

    def _latest(self, node: fx.Node) -> int:
        """The last stage whose accumulators ``node`` reads."""
        if node in self.roots:
            return self.stage_of(node)
        if node not in self.known:
            sources = [source for source in node.all_input_nodes if not self.splitter.is_free(source)]
            self.known[node] = max((self._latest(source) for source in sources), default=0)
        return self.known[node]


class _Builder:
    """A graph under construction, into which nodes of the step are copied."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.known: dict[fx.Node, fx.Node] = {}

    def new(self, name: str) -> fx.Node:
        return self.graph.placeholder(name)

    def place(self, node: fx.Node) -> None:
        self.known[node] = self.new(node.name)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(function, args, kwargs)

    def copy(self, node: fx.Node, rows: tuple[int, fx.Node] | None = None) -> fx.Node:
        """Copy ``node`` and what it needs. ``rows``, a size in the trace, becomes the value of a node."""
        if node not in self.known:
            for source in node.all_input_nodes:
                self.copy(source, rows)
            new = self.graph.node_copy(node, self.known.__getitem__)
            if rows is not None:
                traced, now = rows
                new.args = fx.node.map_aggregate(
                    new.args, lambda arg: now if isinstance(arg, int) and arg == traced else arg
                )
            self.known[node] = new
        return self.known[node]

    def module(self, outputs: list[fx.Node]) -> fx.GraphModule:
        self.graph.output(outputs)
        return fx.GraphModule({}, self.graph)


def _example(node: fx.Node) -> torch.Tensor:
    value = node.meta["val"]
    return torch.ones(value.shape, dtype=value.dtype)


def _width(node: fx.Node) -> int:
    return int(node.meta["val"].shape[-1])


def _as_vector(bias: torch.Tensor, width: int) -> torch.Tensor:
    return bias.reshape(-1).expand(width)


def _expanded(parameter: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return parameter.expand(shape).reshape(-1)
