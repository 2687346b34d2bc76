"""The split of a traced step into the parts of a schedule."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from cells.engines.fused.dependence import Dependence
from cells.engines.fused.errors import NotFusable
from cells.engines.fused.graphs import Builder, example_of, operation, width_of
from cells.engines.fused.schedule import Accumulator, Operand, Product, Schedule, Stage
from cells.engines.fused.sums import Sums
from cells.engines.fused.trace import StepGraph

LIFTED_NUMBERS = {"add", "sub", "mul", "div"}  # their constants are arguments of a kernel, so that it serves all values
STRUCTURAL_NUMBERS = {0.0, 1.0, -1.0, 2.0}
FILLS = {"full", "full_like", "scalar_tensor"}


def make_schedule(step: StepGraph) -> Schedule:
    """Return the schedule of a traced step.

    Raises:
        NotFusable: if the step does not split into products with weights and pointwise operations.
    """
    return _Splitter(step).run()


class _Splitter:
    def __init__(self, step: StepGraph) -> None:
        self.step = step
        self.graph = step.graph
        self.dependence = Dependence(step)
        self.sums = Sums(self.dependence)
        self.prologue = Builder()
        for node in (self.dependence.x, *self.dependence.weights):
            self.prologue.place(node)
        self.rows = self.prologue.call(torch.Tensor.size, self.prologue.known[self.dependence.x], 0)
        self.results: list[Any] = []
        self.kinds: list[Literal["matrix", "vector", "sequence"]] = []
        self.sequences: list[fx.Node] = []
        self.read: list[int] = []
        self.parameters: list[tuple[fx.Node, torch.Size, int]] = []
        self.numbers: list[float] = []
        self.number_of: dict[tuple[fx.Node, int], int] = {}

    def run(self) -> Schedule:
        outputs: list[fx.Node] = tree_leaves(self.dependence.nodes[-1].args[0])
        for node in outputs:
            if not self.dependence.per_row(node):
                raise NotFusable("step returns a value that depends on neither the input nor the state")
        groups = self.sums.groups()
        values = list(
            dict.fromkeys(
                operand
                for members in groups
                for operand, _ in self.sums.found[members[0]].products
                if not self.dependence.is_sequence(operand) and operand not in self.dependence.leaves
            )
        )
        accumulators = [self._accumulator(members, values) for members in groups]
        placed = {
            member: (index, sum(width_of(before) for before in members[: members.index(member)]))
            for index, members in enumerate(groups)
            for member in members
        }
        count = max((accumulator.stage for accumulator in accumulators), default=0) + 1
        wanted = [[value for value in values if self.sums.stage_of_operand(value) == k + 1] for k in range(count - 1)]
        needed = [*(node for nodes in wanted for node in nodes), *outputs]
        self._find_inputs(needed, placed)
        schedule = Schedule(
            self.step.rows,
            fx.GraphModule({}, fx.Graph()),
            self.kinds,
            self.numbers,
            [example_of(leaf) for leaf in self.dependence.leaves],
            [width_of(node) for node in self.sequences],
            {index: example_of(self.sequences[index]) for index in self.read},
            accumulators,
            [
                (place, torch.ones(self.step.rows, *shape[1:], dtype=node.meta["val"].dtype))
                for node, shape, place in self.parameters
            ],
            [width_of(value) for value in values],
        )
        for nodes in wanted:
            schedule.stages.append(Stage(self._stage(nodes, placed), [values.index(node) for node in nodes]))
        schedule.stages.append(Stage(self._stage(outputs, placed), []))
        schedule.prologue = self.prologue.module(self.results)
        return schedule

    def _accumulator(self, members: list[fx.Node], values: list[fx.Node]) -> Accumulator:
        first = self.sums.found[members[0]]
        products: list[Product] = []
        bias = self._bias(members) if any(self.sums.found[member].biases for member in members) else None
        bias_row = bias is not None and any(self.dependence.is_sequence(operand) for operand, _ in first.products)
        terms = sorted(enumerate(first.products), key=lambda term: not self.dependence.is_sequence(term[1][0]))
        for place, (operand, _) in terms:
            weights = []
            for member in members:
                found = self.sums.found[member].products
                match = found[place] if len(members) == 1 else next(term for term in found if term[0] is operand)
                weights.append(self.prologue.copy(match[1]))
            matrix = weights[0] if len(weights) == 1 else self.prologue.call(torch.cat, weights, 1)
            if bias_row and not products:
                assert bias is not None
                matrix = self.prologue.call(torch.cat, [matrix, self.prologue.call(torch.unsqueeze, bias, 0)])
            products.append(Product(self._operand(operand, values), self._result("matrix", matrix)))
        bias_place = None if bias is None or bias_row else self._result("vector", bias)
        width = sum(map(width_of, members))
        return Accumulator(width, products, bias_row, bias_place, self.sums.stage_of(members[0]))

    def _operand(self, operand: fx.Node, values: list[fx.Node]) -> Operand:
        if self.dependence.is_sequence(operand):
            return Operand("sequence", self._sequence(operand))
        if operand in self.dependence.leaves:
            return Operand("leaf", self.dependence.leaves.index(operand))
        return Operand("value", values.index(operand))

    def _bias(self, members: list[fx.Node]) -> fx.Node:
        """Compute the bias of an accumulator in the prologue."""
        parts = []
        for member in members:
            width = width_of(member)
            biases = [self.prologue.copy(bias) for bias in self.sums.found[member].biases]
            vectors = [self.prologue.call(_as_vector, bias, width) for bias in biases]
            if not vectors:
                weight = self.prologue.copy(self.sums.found[member].products[0][1])
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
            if node in seen or node in placed or node in self.dependence.leaves:
                return
            seen.add(node)
            if self.dependence.is_sequence(node):
                if self._sequence(node) not in self.read:
                    self.read.append(self._sequence(node))
                return
            for source in node.all_input_nodes:
                if self.dependence.is_free(source) and operation(source) not in FILLS:
                    self._parameter(source, node)
                elif not self.dependence.is_free(source):
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
        builder = Builder()
        leaves = [builder.new(f"leaf{i}") for i in range(len(self.dependence.leaves))]
        count = max((index for index, _ in placed.values()), default=-1) + 1
        sums = [builder.new(f"accumulator{i}") for i in range(count)]
        sequences = {self.sequences[i]: builder.new(f"sequence{i}") for i in self.read}
        parameters = [builder.new(f"parameter{i}") for i in range(len(self.parameters))]
        numbers = builder.new("numbers")
        builder.known.update(sequences)
        builder.known.update(zip(self.dependence.leaves, leaves, strict=True))
        for node, (index, start) in placed.items():
            total = sum(width_of(member) for member, (other, _) in placed.items() if other == index)
            part = sums[index]
            if width_of(node) != total:
                part = builder.call(torch.ops.aten.slice.Tensor, part, 1, start, start + width_of(node))
            builder.known[node] = part

        def source(user: fx.Node, node: fx.Node) -> fx.Node:
            if self.dependence.is_free(node) and operation(node) not in FILLS:
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


def _as_vector(bias: torch.Tensor, width: int) -> torch.Tensor:
    return bias.reshape(-1).expand(width)


def _expanded(parameter: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return parameter.expand(shape).reshape(-1)
