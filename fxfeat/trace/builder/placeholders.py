"""Write a placeholder for each argument of the model, and checks of what it is like."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import inspect
import numbers
import operator
import types
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from fxfeat.errors import TraceError
from fxfeat.ir.assumptions import STAND_INS
from fxfeat.ir.example import Example
from fxfeat.ir.guard import OF_CALL
from fxfeat.ir.node_meta import amend, measure, meta_of
from fxfeat.ir.tree import Steps, is_structure, map_parts, spell, tensors, walk
from fxfeat.runtime.snapshot import is_still, take
from fxfeat.trace.builder.fakes import copy_real
from fxfeat.trace.builder.nodes import add_node, guard
from fxfeat.trace.builder.provenance import follow, measure_memory, node_of, tie, tie_parts
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import refuse_from_the_start

_GUARDED = (
    *(type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, enum.Enum, type),
    *(types.FunctionType, types.BuiltinFunctionType, torch.layout, torch.memory_format),
    *(range, type(Ellipsis), numbers.Number, datetime.date, datetime.timedelta),
)
STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_CONTAINERS = (tuple, list, dict)
_PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter, FakeTensor)


@dataclass(frozen=True)
class TensorInput:
    """An input that is a tensor: its placeholder, the tensor, and the fake one that the model gets."""

    node: fx.Node
    original: torch.Tensor
    fake: torch.Tensor


def write_inputs(trace: Trace, bound: inspect.BoundArguments, example: Example) -> tuple[list[Any], dict[str, Any]]:
    """Write a placeholder for each parameter of ``forward``; return the example with fake tensors for its tensors.

    The model is called the way the user would call it, because decorators around ``forward`` tell positional
    arguments from named ones.
    """
    given: dict[str, Any] = {}
    earlier: list[TensorInput] = []
    sole = sum(1 for _ in tensors((example.args, example.kwargs))) == 1
    for name, parameter in bound.signature.parameters.items():
        default = () if parameter.default is parameter.empty else (parameter.default,)
        node = add_node(trace, "placeholder", STARS.get(parameter.kind, "") + name, default, name=name)
        told = trace.decisions.assumptions
        if name in told.unneeded and told.stand_in:
            given[name] = STAND_INS[told.stand_in]()
            continue
        given[name] = _write_input(trace, node, bound.arguments.get(name), sole, earlier)
    positional = inspect.BoundArguments(bound.signature, OrderedDict(given)).args
    rest: dict[str, Any] = next(
        (given[p.name] for p in bound.signature.parameters.values() if p.kind is p.VAR_KEYWORD), {}
    )
    named = {name: rest[name] if name in rest else given[name] for name in example.kwargs}
    return list(positional[: len(example.args)]), {**_tensor_defaults(bound, example, given), **named}


def _tensor_defaults(bound: inspect.BoundArguments, example: Example, given: dict[str, Any]) -> dict[str, Any]:
    """Pick the defaults that hold tensors; they are passed on like any input, since another may be given for them."""
    passed = {*list(bound.arguments)[: len(example.args)], *example.kwargs}
    parameters = bound.signature.parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in passed]
    return {name: given[name] for name in named if next(tensors(bound.arguments.get(name)), None) is not None}


def _write_input(trace: Trace, node: fx.Node, value: Any, sole: bool, earlier: list[TensorInput]) -> Any:
    """Return ``value`` with fake tensors for its tensors, tied to a placeholder; what is not a tensor is guarded.

    So is that a tensor is one, and a list one, for code may ask whether it is None; but not of the ``sole`` tensor
    of a call. ``earlier`` are the inputs before it, to which it is added.
    """
    if next(tensors(value), None) is None:
        return _write_plain(trace, node, value)
    fake = _copied(trace, value)
    if isinstance(fake, torch.Tensor):
        fake = _join_same_tensor(trace, node, value, fake, earlier)
    amend(node, **measure_memory(trace, fake))
    trace.memory.persistent |= meta_of(node).aliases
    if any(vars(tensor) for _, tensor in tensors(value) if type(tensor) is torch.Tensor):
        refuse_from_the_start(trace, f"{node.name!r} is a tensor with attributes of its own")
    trace.decisions.unranked += [tensor for _, tensor in tensors(fake)]
    if isinstance(fake, torch.Tensor):
        if node.args or not sole:
            _guard_kind(trace, node, fake, node.name)
        if id(fake) not in trace.provenance.nodes:
            tie(trace, fake, node)
        return fake
    tie_parts(trace, fake, node)
    for steps, part in list(walk(fake)):
        _guard_part(trace, node, steps, part, sole)
    return fake


def _write_plain(trace: Trace, node: fx.Node, value: Any) -> Any:
    amend(node, value=value)
    if isinstance(value, Iterator):
        raise TraceError(
            f"The argument {node.name!r} is a {type(value).__name__}, which a single run uses up. Pass a list or a "
            "tuple, in example_inputs= and to the extractor."
        )
    if not _is_comparable(value):
        _guard_contents(trace, node, value)
        return value
    if not isinstance(value, (*_CONTAINERS, set)):
        guard(trace, node, value, OF_CALL, f"{node.name} = {value!r}")
        return value
    # The model's code may change what it is given.
    expected = copy.deepcopy(value)
    guard(trace, node, expected, OF_CALL, f"{node.name} = {value!r}")
    return copy.deepcopy(expected)


def _guard_contents(trace: Trace, node: fx.Node, value: Any) -> None:
    """Check what an object that is no plain value holds, such as settings; of a module, that it is the same."""
    taken = take(value, None, depth=1)
    asked = add_node(trace, "call_function", is_still, (taken, node), value=True, counted=False)
    guard(trace, asked, True, OF_CALL, f"{node.name} holds what it held")


def _is_comparable(value: Any) -> bool:
    """Say whether a value without tensors can be compared with another."""
    if isinstance(value, dict):
        return all(map(_is_comparable, value.values()))
    if isinstance(value, (*_CONTAINERS, set, frozenset)):
        return all(map(_is_comparable, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(_is_comparable(getattr(value, field.name)) for field in dataclasses.fields(value))
    return isinstance(value, (slice, *_GUARDED))


def _copied(trace: Trace, value: Any) -> Any:
    """Copy an input with its containers, which the model's code may change."""

    def copied_tensor(part: Any) -> Any:
        if not isinstance(part, torch.Tensor):
            return part
        if type(part) not in _PLAIN_TENSORS:
            raise TraceError(
                f"An input is a {type(part).__name__}, and fxfeat records plain tensors. Pass its "
                ".as_subclass(torch.Tensor) in example_inputs=."
            )
        return copy_real(trace, part)

    return map_parts(value, copied_tensor, is_structure, anew=True)


def _join_same_tensor(
    trace: Trace, node: fx.Node, value: torch.Tensor, fake: torch.Tensor, earlier: list[TensorInput]
) -> torch.Tensor:
    """Return the fake tensor of an earlier input that this one is taken to be the same tensor as, or its own."""
    assumed = trace.decisions.assumptions.same_tensor
    alike = [other for other in earlier if measure(other.fake) == measure(fake)]
    for other in alike if assumed != "apart" else ():
        joined = assumed == "together" or other.original is value
        if assumed == "checked":
            asked = add_node(trace, "call_function", operator.is_, (node, other.node), value=joined, counted=False)
            guard(trace, asked, joined, OF_CALL, f"{node.name} is {other.node.name}")
        fake = other.fake if joined else fake
    earlier.append(TensorInput(node, value, fake))
    return fake


def _guard_part(trace: Trace, node: fx.Node, steps: Steps, value: Any, sole: bool) -> None:
    """Check what an argument that holds tensors is like, at some steps into it."""
    name = f"{node.name}{spell(steps)}"
    if isinstance(value, torch.Tensor):
        if not sole:
            _guard_kind(trace, node_of(trace, value), value, name)
        return
    part = follow(trace, node, steps, value)
    if isinstance(value, _GUARDED):
        guard(trace, part, value, OF_CALL, f"{name} = {value!r}")
        return
    # What a star gathers is always there.
    if steps or not str(node.target).startswith("*"):
        _guard_kind(trace, part, value, name)
    _guard_length(trace, part, value, name)


def _guard_kind(trace: Trace, node: fx.Node, value: Any, name: str) -> None:
    kind = torch.Tensor if isinstance(value, torch.Tensor) else type(value)
    asked = add_node(trace, "call_function", isinstance, (node, kind), value=True, counted=False)
    spelled = "torch.Tensor" if kind is torch.Tensor else kind.__qualname__
    guard(trace, asked, True, OF_CALL, f"isinstance({name}, {spelled})")


def _guard_length(trace: Trace, node: fx.Node, value: Any, name: str) -> None:
    if isinstance(value, (tuple, list)):
        length = add_node(trace, "call_function", len, (node,), value=len(value), counted=False)
        guard(trace, length, len(value), OF_CALL, f"len({name}) == {len(value)}")
    elif isinstance(value, dict):
        # In their order, for code may go through them.
        keys = add_node(trace, "call_function", list, (node,), value=list(value), counted=False)
        guard(trace, keys, list(value), OF_CALL, f"list({name}) == {list(value)}")
