"""The graph of one step, by torch's own tracer.

A step is a method of a module. Its parameters, buffers and other tensors become inputs of the graph, so that a graph
serves every cell with the same code, sizes and plain settings, and every set of weights: ``functional_call``, weight
dropout, and recurrent weights that are computed once per sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from cells.engines.fused.errors import NotFusable

Rebuild = Callable[[Sequence[Tensor]], Any]

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197, 199)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass
class Lifted:
    """A step taken apart.

    Attributes:
        tensors: The tensors that it uses.
        key: What else decides its result: classes, functions, sizes and plain attributes.
        rebuild: Makes the step again with other tensors.
    """

    tensors: list[Tensor] = field(default_factory=list)
    key: list[Any] = field(default_factory=list)
    rebuild: Rebuild = field(default=lambda tensors: None)


def lift(step: Callable[..., Any]) -> Lifted:
    """Take ``step``, a method of a module or a ``functools.partial`` of one, apart."""
    lifted = Lifted()
    lifted.rebuild = _Lifter(lifted).lift(step)
    return lifted


class _Lifter:
    def __init__(self, into: Lifted) -> None:
        self.into = into
        self.places: dict[int, int] = {}

    def lift(self, value: Any) -> Rebuild:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, MethodType):
            self.into.key.append(value.__func__)
            owner = self.lift(value.__self__)
            return lambda tensors: MethodType(value.__func__, owner(tensors))
        if isinstance(value, partial):
            function, args = self.lift(value.func), [self.lift(arg) for arg in value.args]
            named = {name: self.lift(arg) for name, arg in value.keywords.items()}
            return lambda tensors: partial(
                function(tensors),
                *(arg(tensors) for arg in args),
                **{name: arg(tensors) for name, arg in named.items()},
            )
        self.into.key.append(_frozen(value))
        return lambda tensors: value

    def _tensor(self, value: Tensor) -> Rebuild:
        if id(value) not in self.places:
            self.places[id(value)] = len(self.into.tensors)
            self.into.tensors.append(value)
        place = self.places[id(value)]
        self.into.key.append((place, tuple(value.shape), value.dtype, value.device))
        return lambda tensors: tensors[place]

    def _module(self, module: nn.Module) -> Rebuild:
        kind = parametrize.type_before_parametrizations(module)
        self.into.key.append((kind, module.training))
        tensors: dict[str, Rebuild] = {}
        plain: dict[str, Any] = {}
        parametrized = set(vars(module.parametrizations)["_modules"]) if parametrize.is_parametrized(module) else set()
        for name in sorted(parametrized):
            tensors[name] = self._named(name, getattr(module, name))
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is None:
                plain[name] = None
            else:
                tensors[name] = self._named(name, value)
        for name, value in vars(module).items():
            if name in OF_EVERY_MODULE:
                continue
            if isinstance(value, Tensor):
                tensors[name] = self._named(name, value)
            else:
                plain[name] = value
                self.into.key.append((name, _frozen(value)))
        children: dict[str, Rebuild] = {}
        for name, child in module._modules.items():
            if name == "parametrizations":
                continue
            if child is None:
                plain[name] = None
                continue
            if any(getattr(child, hooks) for hooks in HOOKS):
                raise NotFusable(f"the submodule {name} has hooks, which would not run at every step")
            children[name] = self._named(name, child)

        def rebuild(values: Sequence[Tensor]) -> nn.Module:
            copy: nn.Module = object.__new__(kind)
            copy.__dict__.update(vars(nn.Module()))
            copy.__dict__.update(plain)
            copy.__dict__["training"] = module.training
            copy.__dict__["_modules"] = {name: child(values) for name, child in children.items()}
            copy.__dict__.update({name: tensor(values) for name, tensor in tensors.items()})
            return copy

        return rebuild

    def _named(self, name: str, value: Any) -> Rebuild:
        self.into.key.append(name)
        return self.lift(value)


def _frozen(value: Any) -> Any:
    """Return something hashable that differs if ``value`` does."""
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((name, _frozen(item)) for name, item in value.items())
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


@dataclass(frozen=True)
class StepGraph:
    """A traced step.

    Attributes:
        graph: Its placeholders are x, the leaves of the state and the tensors; its outputs y and the next leaves.
        rows: The batch size of the trace, which is no other size in the graph.
        leaves: Number of leaves of the state.
    """

    graph: fx.Graph
    rows: int
    leaves: int


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return torch's rules that write rarer operations as common ones."""
    from torch._decomp import core_aten_decompositions, get_decompositions

    aten = torch.ops.aten
    kept_by_core = [aten.elu, aten.gelu, aten.hardtanh, aten.leaky_relu]
    table = {**core_aten_decompositions(), **get_decompositions(kept_by_core)}
    table.pop(aten.detach.default, None)  # its rule forgets that no gradient passes
    return table


def trace(
    function: Callable[..., Any], inputs: Sequence[Any], table: dict[Any, Callable[..., Any]] | None
) -> fx.GraphModule:
    """Trace ``function`` as one without operations in place.

    Args:
        function: It takes and returns tensors and lists of tensors.
        inputs: Its arguments.
        table: Rules by which torch writes operations as others.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    # make_fx describes each value by a fake tensor, and without this context makes a mode for each, a third of its time
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        module: fx.GraphModule = make_fx(torch.func.functionalize(function), decomposition_table=table)(*inputs)
    return module


class _NoGradIsRefused(TorchFunctionMode):
    """Refuses ``torch.no_grad`` in a step, which a graph does not show."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            raise NotFusable("step changes the gradient mode; use detach() instead of torch.no_grad()")
        return func(*args, **(kwargs or {}))


def trace_step(lifted: Lifted, x_BI: Tensor, leaves: Sequence[Tensor], structure: TreeSpec) -> StepGraph:
    """Trace a step.

    Operations stay as they are. Written as simpler ones, they may lose their derivative at a corner: that of a norm at
    zero is 0, and that of ``sqrt`` is not finite.

    Args:
        lifted: The step.
        x_BI: An input with the right number of features, dtype and device.
        leaves: Leaves of a state.
        structure: Structure of the state.

    Raises:
        NotFusable: if the step cannot be traced, or changes the structure of its state.
    """
    _start_autograd()
    sizes = {size for tensor in (x_BI, *leaves, *lifted.tensors) for size in tensor.shape}
    rows = next(prime for prime in PRIMES if prime not in sizes)

    def run(x_BI: Tensor, leaves: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
        step = lifted.rebuild(tensors)
        before = lift(step).key
        with _NoGradIsRefused():
            y_BH, state = step(x_BI, tree_unflatten(leaves, structure))
        found, structure_after = tree_flatten(state)
        if structure_after != structure:
            raise NotFusable(f"step changes the structure of the state from {structure} to {structure_after}")
        if lift(step).key != before:
            raise NotFusable("step changes attributes of the cell")
        return [y_BH, *found]

    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        inputs = (
            x_BI.new_full((rows, *x_BI.shape[1:]), 0.5),
            [leaf.new_full((rows, *leaf.shape[1:]), 0.5 if leaf.is_floating_point() else 1) for leaf in leaves],
            [tensor.detach().clone() for tensor in lifted.tensors],
        )
        try:
            # an empty table: without one, torch 2.14 replaces detach() by an operation that gradients pass
            module = trace(run, inputs, table={})
        except NotFusable:
            raise
        except Exception as error:  # whatever a third party's step does that cannot be traced
            raise NotFusable(f"step cannot be traced: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    _inline_numbers(module)
    return StepGraph(module.graph, rows, len(leaves))


@functools.cache
def _start_autograd() -> None:
    """Run the first backward pass of this process before anything is traced.

    A first backward pass after ``make_fx`` would start threads for devices, and torch then refuses every backward pass
    in forked processes.
    """
    with torch.inference_mode(False), torch.enable_grad():
        torch.zeros(1, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]


def _inline_numbers(module: fx.GraphModule) -> None:
    """Turn tensors of one number that the step makes into constants of the graph."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        tensor = getattr(module, str(node.target))
        if tensor.dim() > 0:
            raise NotFusable("step uses a tensor that is no parameter, buffer or attribute of the cell")
        with graph.inserting_before(node):
            number = graph.call_function(
                torch.ops.aten.scalar_tensor.default, (tensor.item(),), {"dtype": tensor.dtype}
            )
        number.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(number)
        graph.erase_node(node)
