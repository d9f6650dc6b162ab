"""Turn a request into features of a recording, or say what is wrong with it."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from fxfeat.errors import NodeNotFoundError, RequestError
from fxfeat.ir.feature import Feature, Given, OpOccurrence, Origin
from fxfeat.ir.module_call import (
    ModuleCall,
    opaque_in,
)
from fxfeat.ir.node_meta import (
    TensorMeta,
    meta_of,
)
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import Build, Steps, follow, has, map_nodes, spell, walk
from fxfeat.names.query import NamedValue
from fxfeat.names.replaced import call_replaced
from fxfeat.names.several import Request, Several, add_key, is_pattern


def read_request(return_nodes: Any, argument: str = "return_nodes") -> Request:
    """Read ``return_nodes`` as a mapping from key to name, in the order asked; patterns and classes are not expanded.

    >>> read_request(["layer1", "layer2"])
    {'layer1': 'layer1', 'layer2': 'layer2'}
    >>> read_request({"layer1": "low"})
    {'low': 'layer1'}

    Raises:
        RequestError: where it is no sequence or mapping of names, is empty, or gives one key to two names.
    """
    if isinstance(return_nodes, type):
        return_nodes = [return_nodes]
    if isinstance(return_nodes, Mapping):
        pairs = list(return_nodes.items())
    elif isinstance(return_nodes, Sequence) and not isinstance(return_nodes, (str, bytes)):
        pairs = [(name, name) for name in return_nodes]
    else:
        raise RequestError(
            f"{argument} is {return_nodes!r}; it must be a list of names, as in {argument}=['layer1', 'layer2'], or a "
            "mapping from name to key, as in {'layer1': 'low'}."
        )
    if not pairs:
        raise RequestError(f"{argument} is empty; name at least one node, as in {argument}=['layer1'].")
    request: dict[str, Any] = {}
    for name, key in pairs:
        if isinstance(name, str) and not is_pattern(name):
            add_key(request, str(key), name, argument)
            continue
        several = Several(_read_several(name, argument), "" if key is name else str(key))
        request[f"{several} {several.template}"] = several
    return request


def _read_several(asked: Any, argument: str) -> str | tuple[type[nn.Module], ...]:
    """Read a pattern, a class of modules, or a sequence of classes."""
    if isinstance(asked, str):
        return asked
    kinds = tuple(asked) if isinstance(asked, (tuple, list)) else (asked,)
    if kinds and all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds):
        return kinds
    also = " or classes of modules" if isinstance(asked, (type, tuple, list)) else ""
    raise RequestError(f"{argument} holds {asked!r}, a {type(asked).__name__}; names are strings{also}.")


def select_feature(recording: Recording, target: NamedValue, key: str) -> Feature:
    """Say which values of the recording a name that was found stands for.

    Raises:
        NodeNotFoundError: where the steps lead nowhere.
    """
    replaced = call_replaced(recording, target.module_call, target.node)
    if replaced is not None:
        # Nothing says which module returned it: a module call that a feature names is where code may be read from.
        bare = dataclasses.replace(recording, replaced=())
        as_recorded = select_feature(bare, target, key)
        feature = select_feature(bare, dataclasses.replace(target, node=None, module_call=replaced), key)
        return dataclasses.replace(feature, module_call=None, origin=as_recorded.origin)
    if target.node is not None:
        return _of_node(recording, target, target.node, key)
    assert target.module_call is not None
    module_call = target.module_call
    if target.is_input:
        return _of_input(recording, target, module_call, key)
    value, steps = _pick(module_call.result, target.steps)
    if steps and (not isinstance(value, fx.Node) or target.steps in dict(module_call.result_nodes)):
        value, steps = _leaf_at(module_call, target), ()
    if steps:
        _check_steps(target, meta_of(value).value)
    if opaque_in(value) and module_call.index == 0:
        raise RequestError(_explain_opaque(target.query, module_call))
    origin = _origin_of_call(recording, module_call, target.steps)
    return Feature((key,), target.query, value, steps, module_call.stop, module_call.index, origin)


def _of_input(recording: Recording, target: NamedValue, call: ModuleCall, key: str) -> Feature:
    """Say what a module was called with, as its last hook before ``forward`` sees it."""
    args, kwargs, produced_at = call.after_hooks or (call.args, call.kwargs, call.start)
    chosen = choose_input(target.query, target.steps, _measured(args), _measured(kwargs))
    value, steps = _pick((args, kwargs), chosen)
    if opaque_in(value):
        name = opaque_in(value)[0].type_name
        raise RequestError(
            f"{target.query!r} holds a {name}, which cannot be written down as code. Ask for its tensors, or for the "
            "value that it is made from."
        )
    origin = replace(_origin_of_call(recording, call, chosen), is_input=True)
    return Feature((key,), target.query, value, steps, produced_at, origin=origin, given_to=call.index)


def _measured(value: Any) -> Any:
    return map_nodes(value, lambda node: meta_of(node).value)


def choose_input(query: str, steps: Steps, args: Any, kwargs: Any) -> Steps:
    """Return the steps from the pair of positional and keyword arguments to the one that a query means.

    Args:
        query: what was typed.
        steps: what follows ``:in``: nothing for the first positional tensor, an index or a name, and further steps.
        args: the positional arguments, with what is known of tensors in their place, or the tensors.
        kwargs: the same for the keyword arguments.

    Raises:
        NodeNotFoundError: where there is no tensor.
    """
    given = [((("item", 0), ("item", index)), part) for index, part in enumerate(args)]
    named = [((("item", 1), ("item", name)), part) for name, part in kwargs.items()]
    chosen: Steps | None = next((path for path, part in given if isinstance(part, _TENSORS)), None)
    if steps:
        chosen = (("item", 0 if isinstance(steps[0][1], int) else 1), *steps)
    if chosen is not None and has((args, kwargs), chosen) and _holds_tensors(follow((args, kwargs), chosen)):
        return chosen
    base = query[: len(query) - len(spell(steps))]
    near = [f"{base}{spell(path[1:])}" for path, part in (*given, *named) if _holds_tensors(part)]
    hint = f"Ask for {' or '.join(map(repr, near[:4]))}." if near else "It was called without any."
    what = "an argument that holds a tensor there" if steps else "a positional argument that is a tensor"
    raise NodeNotFoundError(f"{query!r}: the module was not called with {what}. {hint}")


_TENSORS = (torch.Tensor, TensorMeta)


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(part, _TENSORS) for _, part in walk(value))


def _origin_of_call(recording: Recording, module_call: ModuleCall, steps: Steps) -> Origin:
    """Count calls of the module itself, by whatever path: that is what a hook sees."""
    call = sum(other.module == module_call.module for other in recording.module_calls[: module_call.index])
    return Origin(module_call.path, call, (), steps)


def _sign_of(recording: Recording, node: fx.Node, steps: Steps) -> OpOccurrence | Given | None:
    """Say how to tell a node, or the node that it is a part of, when the model runs."""
    if node.op == "placeholder":
        return Given(str(node.target).lstrip("*"), steps)
    occurrence = meta_of(node).occurrence
    if occurrence is not None:
        owner = _origin_of_call(recording, recording.module_calls[meta_of(node).module_call], ())
        return OpOccurrence(str(owner.path), owner.call, *occurrence, steps)
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return None
    return _sign_of(recording, node.args[0], (("item", node.args[1]), *steps))


def _of_node(recording: Recording, target: NamedValue, node: fx.Node, key: str) -> Feature:
    owner = recording.module_calls[meta_of(node).module_call]
    produced_at = owner.stop if owner.leaf and node.op == "call_module" else meta_of(node).position + 1
    leaves = dict(owner.result_nodes) if owner.leaf and node.op == "call_module" else {}
    origin = Origin(None, 0, meta_of(node).call_path, target.steps, _sign_of(recording, node, target.steps))
    if owner.leaf and node.op == "call_module":
        origin = _origin_of_call(recording, owner, target.steps)
    if target.steps in leaves:
        return Feature((key,), target.query, leaves[target.steps], (), produced_at, origin=origin)
    _check_steps(target, meta_of(node).value)
    return Feature((key,), target.query, node, target.steps, produced_at, origin=origin)


def _check_steps(target: NamedValue, measured: Any) -> None:
    value = measured
    for index, (_, step) in enumerate(target.steps):
        try:
            value = value[step]
        except (IndexError, KeyError, TypeError):
            base = target.query[: len(target.query) - len(spell(target.steps[index:]))]
            if not isinstance(value, (tuple, list, dict)):
                why = f"{base!r} is a tensor, and brackets pick from tuples and dicts. Ask for {base!r}"
                raise NodeNotFoundError(f"{target.query!r}: {why} and index what the extractor returns.") from None
            raise NodeNotFoundError(f"{target.query!r}: {base!r} has {len(value)} elements, so no {step!r}.") from None


def _pick(value: Any, steps: Steps) -> tuple[Any, Steps]:
    """Follow steps through a written-down structure as far as it goes."""
    for index, (kind, step) in enumerate(steps):
        if isinstance(value, Build):
            fields = dict(value.fields)
            value = list(fields.values())[step] if isinstance(step, int) else fields.get(step, value)
        elif kind == "item" and isinstance(value, (tuple, list, dict)):
            try:
                value = value[step]
            except (IndexError, KeyError):
                return value, steps[index:]
        else:
            return value, steps[index:]
    return value, ()


def _leaf_at(module_call: ModuleCall, target: NamedValue) -> fx.Node:
    nodes_by_steps = {spell(steps): node for steps, node in module_call.result_nodes}
    if spell(target.steps) in nodes_by_steps:
        return nodes_by_steps[spell(target.steps)]
    base = target.query[: len(target.query) - len(spell(target.steps))]
    near = " or ".join(repr(base + steps) for steps in list(nodes_by_steps)[:4])
    raise NodeNotFoundError(f"{target.query!r}: {base!r} holds no tensor there. Ask for {near or 'something else'}.")


def _explain_opaque(query: str, module_call: ModuleCall) -> str:
    name = opaque_in(module_call.result)[0].type_name
    near = " or ".join(repr(f"output{spell(steps)}") for steps, _ in module_call.result_nodes[:4])
    return f"{query!r} holds a {name}, which cannot be written down as code. Ask for its tensors: {near}."
