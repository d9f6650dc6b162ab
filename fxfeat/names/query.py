"""Find what a typed name means."""

from __future__ import annotations

import ast
import contextlib
import difflib
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module

from fxfeat.errors import NodeNotFoundError
from fxfeat.ir.module_call import (
    ModuleCall,
)
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import Build, Steps
from fxfeat.names.table import NameTable
from fxfeat.names.wrappers import spell_out

OUTPUT = "output"
INPUT = ":in"


@dataclass(frozen=True)
class NamedValue:
    """What a name stands for: a node, or what a module returned, or was called with, then steps into it."""

    query: str
    node: fx.Node | None
    module_call: ModuleCall | None
    steps: Steps = ()
    is_input: bool = False


@dataclass(frozen=True)
class InsideLeaf:
    """A name that lies inside a leaf, which has to be opened first."""

    leaf: str


@dataclass(frozen=True)
class Parsed:
    """A query taken apart: ``name@call:in[key]...``; ``every`` stands for all calls, as ``@*`` asks for."""

    name: str
    call: int | None
    steps: Steps
    is_input: bool = False
    every: bool = False


def parse_query(query: str) -> Parsed:
    """Take ``name@k:in[i]['key']`` apart.

    >>> parse_query("lstm@1[1][0]")
    Parsed(name='lstm', call=1, steps=(('item', 1), ('item', 0)), is_input=False, every=False)

    Raises:
        NodeNotFoundError: where the brackets or the number after ``@`` cannot be read.
    """
    head, bracket, tail = query.partition("[")
    is_input = head.endswith(INPUT)
    name, at, call = head.removesuffix(INPUT).rpartition("@") if "@" in head else ("", "", head.removesuffix(INPUT))
    if not at:
        return Parsed(call, None, _read_steps(query, bracket + tail), is_input)
    if not call.isdigit() and call != "*":
        name = name.removesuffix(INPUT)
        raise NodeNotFoundError(
            f"{query!r}: after '@' comes the number of the call, from 0, as in '{name}@0', or a star for all calls."
        )
    if name.endswith(INPUT):
        raise NodeNotFoundError(f"{query!r}: the call comes first, as in '{name.removesuffix(INPUT)}@{call}{INPUT}'.")
    number = None if call == "*" else int(call)
    return Parsed(name, number, _read_steps(query, bracket + tail), is_input, call == "*")


def _read_steps(query: str, text: str) -> Steps:
    if not text:
        return ()
    try:
        subscript: Any = ast.parse(f"_{text}", mode="eval").body
        steps: list[tuple[str, Any]] = []
        while isinstance(subscript, (ast.Subscript, ast.Attribute)):
            steps.append(_read_step(subscript))
            subscript = subscript.value
    except (SyntaxError, ValueError) as error:
        raise NodeNotFoundError(f"{query!r}: write elements as name[0] or name['key'].") from error
    return tuple(reversed(steps))


def _read_step(subscript: ast.Subscript | ast.Attribute) -> tuple[str, Any]:
    if isinstance(subscript, ast.Attribute):
        return "attr", subscript.attr
    return "item", ast.literal_eval(subscript.slice)


def find(recording: Recording, table: NameTable, query: str) -> NamedValue | InsideLeaf:
    """Find what ``query`` stands for.

    A listed name means that node. Any other module path means what that module returned, on its last call. ``output``
    is what the model returned. Names may leave out the parts of wrappers, or have those of wrappers that are not there.

    Raises:
        NodeNotFoundError: where nothing has that name.
    """
    try:
        return _find(recording, table, query)
    except NodeNotFoundError:
        spelled_out = spell_out(recording.root, query)
        if spelled_out == query:
            raise
        with contextlib.suppress(NodeNotFoundError):
            named = _find(recording, table, spelled_out)
            return replace(named, query=query) if isinstance(named, NamedValue) else named
        raise


def find_every(recording: Recording, table: NameTable, query: str) -> list[NamedValue | InsideLeaf]:
    """Find what ``query`` stands for, which is one value for each call where it asks for all, as ``gru@*`` does.

    Raises:
        NodeNotFoundError: where nothing has that name.
    """
    if "@*" not in query:
        return [find(recording, table, query)]
    first = find(recording, table, query.replace("@*", "@0", 1))
    if isinstance(first, InsideLeaf):
        return [first]
    assert first.module_call is not None
    count = sum(call.module == first.module_call.module for call in recording.module_calls)
    each = [find(recording, table, query.replace("@*", f"@{number}", 1)) for number in range(count)]
    return [replace(named, query=query) if isinstance(named, NamedValue) else named for named in each]


def _find(recording: Recording, table: NameTable, query: str) -> NamedValue | InsideLeaf:
    if _is_node(table, query):
        return NamedValue(query, table.nodes[query], None)
    if query in table.calls:
        return NamedValue(query, None, table.calls[query])
    exact = _find_module_call(recording, table, query, None, ())
    if exact is not None:
        return exact
    parsed = parse_query(query)
    if parsed.is_input:
        return _find_input(recording, table, query, parsed)
    if parsed.call is None and parsed.steps and _is_node(table, parsed.name):
        return NamedValue(query, table.nodes[parsed.name], None, parsed.steps)
    if parsed.call is None and parsed.steps and parsed.name in table.calls:
        return NamedValue(query, None, table.calls[parsed.name], parsed.steps)
    returned = _find_module_call(recording, table, parsed.name, parsed.call, parsed.steps)
    if returned is not None:
        return NamedValue(query, returned.node, returned.module_call, returned.steps)
    calls = _calls_by_any_path(recording, table, parsed.name)
    if calls:
        return NamedValue(query, None, _pick_by_other_path(recording, calls, parsed), parsed.steps)
    inside = _find_attribute(table, recording, parsed)
    if inside is not None:
        return NamedValue(query, None, *inside)
    leaf = _leaf_around(recording, parsed.name)
    if leaf is not None and parsed.name in table.paths:
        return InsideLeaf(leaf)
    raise NodeNotFoundError(explain_missing(recording, table, query, parsed.name))


def is_result(name: str, paths: Container[str]) -> bool:
    """Say whether a name means what the model returned: ``output``, unless a module is called so, and the empty one.

    >>> is_result("output", ["conv"]), is_result("output", ["output"]), is_result("", ["output"])
    (True, False, True)
    """
    return not name or (name == OUTPUT and OUTPUT not in paths)


def _is_node(table: NameTable, name: str) -> bool:
    """Say whether a name is that of a node; an argument of the name of the model's result gives way to that."""
    return name in table.nodes and not (name == OUTPUT and table.nodes[name].op == "placeholder")


def _find_module_call(
    recording: Recording, table: NameTable, name: str, call: int | None, steps: Steps
) -> NamedValue | None:
    if call is None and is_result(name, table.paths):
        return NamedValue(name, None, recording.module_calls[0], steps)
    calls = table.module_calls.get(name, ()) if call is None else _calls_by_any_path(recording, table, name)
    if calls:
        return NamedValue(name, None, _pick(calls, call, name), steps)
    if name in table.nodes or call is not None:
        return None
    return _last_under(recording, table, name, steps)


def _find_input(recording: Recording, table: NameTable, query: str, parsed: Parsed) -> NamedValue | InsideLeaf:
    """Find what a module was called with; where it has hooks that may change that, it is opened for them to show."""
    head = query.partition(INPUT)[0]
    named = _find(recording, table, head)
    if isinstance(named, InsideLeaf):
        return named
    call = named.module_call
    if named.node is not None and named.node.op == "call_module":
        call = recording.module_calls[meta_of(named.node).module_call]
    if call is None or call.index == 0 or named.steps or not _is_call_of(recording, call, parsed.name):
        raise NodeNotFoundError(
            f"{query!r}: {head!r} is no call of a module, and only modules have inputs. Ask for what it is made from."
        )
    module = recording.modules[call.path]
    has_hooks = bool(module._forward_pre_hooks) or bool(torch_module._global_forward_pre_hooks)
    if call.leaf and has_hooks and not isinstance(module, torch.jit.ScriptModule):
        return InsideLeaf(call.path)
    return NamedValue(query, None, call, parsed.steps, is_input=True)


def _is_call_of(recording: Recording, call: ModuleCall, name: str) -> bool:
    """Say whether a name means a call of its own module, and not of what ran last inside a container."""
    module = recording.modules.get(name)
    return module is None or id(module) == call.module


def _pick(calls: tuple[ModuleCall, ...], call: int | None, name: str) -> ModuleCall:
    if call is None:
        return calls[-1]
    if call < len(calls):
        return calls[call]
    times = "once" if len(calls) == 1 else f"{len(calls)} times"
    last = f"'{name}@{len(calls) - 1}'"
    raise NodeNotFoundError(f"'{name}@{call}' was asked for, but {name!r} is called {times}; the last call is {last}.")


def _last_under(recording: Recording, table: NameTable, name: str, steps: Steps) -> NamedValue | None:
    """Find what ran last under a container that is never called itself, such as an ``nn.ModuleList``."""
    prefix = f"{name}."
    module_calls = [call for call in recording.module_calls if call.path.startswith(prefix)]
    nodes = [node for key, node in table.nodes.items() if key.startswith(prefix)]
    last_span = max(module_calls, key=lambda call: (call.stop, -call.index), default=None)
    last_node = max(nodes, key=lambda node: meta_of(node).position, default=None)
    if last_span is not None and (last_node is None or meta_of(last_node).position < last_span.stop):
        return NamedValue(name, None, last_span, steps)
    return None if last_node is None else NamedValue(name, last_node, None, steps)


def _pick_by_other_path(recording: Recording, calls: tuple[ModuleCall, ...], parsed: Parsed) -> ModuleCall:
    """Pick the call that a path means by which no caller reached the module.

    Where a module stands in a container several times, each place has its call; else a leaf's name is its first call.
    """
    parent, _, _ = parsed.name.rpartition(".")
    siblings = [path for path in _paths_of(recording, parsed.name) if path.rpartition(".")[0] == parent]
    in_order = isinstance(recording.modules[parent], (nn.ModuleList, nn.Sequential))
    if parsed.call is None and in_order and len(siblings) == len(calls):
        return calls[siblings.index(parsed.name)]
    if parsed.call is None and calls[0].leaf:
        return calls[0]
    return _pick(calls, parsed.call, parsed.name)


def _paths_of(recording: Recording, name: str) -> list[str]:
    """List the paths of the module at a path."""
    modules = recording.modules
    return [path for path, module in modules.items() if path and module is modules.get(name)]


def _calls_by_any_path(recording: Recording, table: NameTable, name: str) -> tuple[ModuleCall, ...]:
    """List the calls of a module, by whatever paths its callers reached it."""
    calls = [call for path in _paths_of(recording, name) for call in table.module_calls.get(path, ())]
    return tuple(sorted(calls, key=lambda call: call.index))


def _find_attribute(table: NameTable, recording: Recording, parsed: Parsed) -> tuple[ModuleCall, Steps] | None:
    """Find ``block.y`` or ``output.y``: an attribute of what a module returned."""
    parts = parsed.name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        name, steps = ".".join(parts[:cut]), tuple(("attr", part) for part in parts[cut:])
        calls = table.module_calls.get(name, ()) or (
            (recording.module_calls[0],) if is_result(name, table.paths) else ()
        )
        if calls and _has_attribute(_pick(calls, parsed.call, name), steps):
            return _pick(calls, parsed.call, name), (*steps, *parsed.steps)
    return None


def _has_attribute(module_call: ModuleCall, steps: Steps) -> bool:
    named = isinstance(module_call.result, Build) and steps[0][1] in dict(module_call.result.fields)
    return named or any(leading[: len(steps)] == steps for leading, _ in module_call.result_nodes)


def _leaf_around(recording: Recording, name: str) -> str | None:
    return next(
        (call.path for call in recording.module_calls if call.leaf and name.startswith(f"{call.path}.")),
        None,
    )


def _scripted_around(recording: Recording, name: str) -> str | None:
    """Return the scripted module that a name lies inside, if there is one."""
    modules = recording.modules
    scripted = [path for path, module in modules.items() if isinstance(module, torch.jit.ScriptModule)]
    return next((path for path in scripted if name.startswith(f"{path}.")), None)


def suggest(name: str, choices: Sequence[str]) -> str:
    """Ask whether one of the names was meant that come nearest.

    >>> suggest("cnov", ["conv", "relu"])
    " Did you mean 'conv'?"
    """
    near = difflib.get_close_matches(name, choices, 3, 0.5) or [key for key in choices if name and name in key][:3]
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def explain_missing(recording: Recording, table: NameTable, query: str, name: str) -> str:
    """Say why a name was not found, and what comes nearest."""
    model = type(recording.root).__name__
    mode = "train" if recording.training else "eval"
    choices = list(dict.fromkeys([*table.listed, *(path for path in table.module_calls if path), OUTPUT]))
    hint = suggest(name, choices)
    scripted = _scripted_around(recording, name)
    if scripted is not None:
        return (
            f"{query!r} is inside {scripted!r}, which is scripted: its code runs outside Python, where nothing can be "
            f"seen. Ask for {scripted!r}."
        )
    if name in table.paths:
        return f"{query!r} is a module of {model}, but its forward does not run in {mode} mode.{hint}"
    observe = f" fxfeat.get_graph_node_names(model) lists all {len(table.listed)} names."
    return f"{model} has no node or module {query!r} in {mode} mode.{hint}{observe}"
