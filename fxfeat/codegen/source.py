"""Write a rewritten graph as the Python that an expert would have written."""

from __future__ import annotations

import builtins
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import fx, nn

from fxfeat.codegen.expressions import IN_PLACE, Speller
from fxfeat.codegen.globals import Globals, is_identifier, to_identifier
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import ReturnType, Source
from fxfeat.ir.feature import values_by_key
from fxfeat.ir.node_meta import MODEL_DEVICE, Context, TensorMeta, holds_tensor, meta_of
from fxfeat.ir.tap import TappedCall
from fxfeat.ir.tree import nodes_in
from fxfeat.runtime.check import check
from fxfeat.runtime.form_of import form_of
from fxfeat.runtime.run_tapped import run_tapped

_TAB = "    "
_FOREVER = 1 << 60
_MOST_NAMES = 3
_SHORT_METHODS = (("call_method", "size"), ("call_method", "dim"))
_LETTERS = ("x", "y", "z", "w", "v", "u")


def write_source(draft: Draft, reach: Callable[[str], str], receiver: str = "self") -> Source:
    """Write the ``forward`` method of an extractor.

    Args:
        draft: the rewritten graph and its features.
        reach: how to reach a submodule or tensor of the model from the receiver.
        receiver: what the method's first parameter is called.
    """
    # A first time to learn which variables are bound again and which globals are needed.
    trial = _Writer(draft, reach, receiver, frozenset(), frozenset())
    trial.write()
    return _Writer(draft, reach, receiver, frozenset(trial.rebound), frozenset(trial.names.objects)).write()


class _Writer:
    def __init__(
        self,
        draft: Draft,
        reach: Callable[[str], str],
        receiver: str,
        chains: frozenset[fx.Node],
        reserved: frozenset[str],
    ) -> None:
        self.draft = draft
        self.receiver = receiver
        self.reserved = reserved
        self.chains = chains
        self.rebound: set[fx.Node] = set()
        self.origins: dict[str, fx.Node] = {}
        self.nodes = list(draft.graph.nodes)
        self.inputs = [node for node in self.nodes if node.op == "placeholder"]
        self.order = {node: index for index, node in enumerate(self.nodes)}
        self.names = Globals(frozenset(draft.recording.signature.parameters))
        self.speller = Speller(self.names, self.variable, reach, _overriding(draft.recording.modules))
        self.variables: dict[fx.Node, str] = {}
        self.needed: dict[str, int] = {}
        self.given: set[str] = {receiver}
        self.numbers: dict[str, int] = {}
        self.rebinds = any(node.target is setattr for node in self.nodes)
        self.unpacked = {user for node in self.nodes if node.target is run_tapped for user in node.users}
        self.inlined = {node for node in reversed(self.nodes) if self._is_inlined(node)}
        self.last_use = self._last_uses()
        self.keys = self._keys()
        self.lines: list[str] = []
        self.contexts: tuple[Context, ...] = ()
        self.device = ""

    # -- what is written where --------------------------------------------------------------------------------------

    def _is_inlined(self, node: fx.Node) -> bool:
        """Write an attribute, a size or a pick where it is used, if it is used once and at once."""
        if node.op == "get_attr":
            return not self.rebinds or not node.target
        if node in self.unpacked:
            return False
        if any(source in self.unpacked and source.args[1] == 1 for source in node.all_input_nodes):
            return True  # a value that was copied out of a module which runs whole
        if node.op != "call_function" and (node.op, node.target) not in _SHORT_METHODS:
            return False
        if isinstance(meta_of(node).value, TensorMeta) or meta_of(node).writes or node.target is check:
            return False
        if holds_tensor(meta_of(node).value) or not self._is_plain(node):
            return False
        users = list(node.users)
        if len(users) != 1 or any(node in nodes_in(feature.value) for feature in self.draft.features):
            return False
        between = self.nodes[self.order[node] + 1 : self.order[users[0]]]
        return all(user_of(other) is users[0] or other.op == "get_attr" for other in between)

    def _is_plain(self, node: fx.Node) -> bool:
        home = getattr(node.target, "__module__", None)
        return home in ("_operator", "math") or node.target in (getattr, isinstance, len, form_of, "size", "dim", round)

    def _last_uses(self) -> dict[fx.Node, int]:
        last: dict[fx.Node, int] = {}
        for node in self.nodes:
            if node not in self.inlined or node.op == "get_attr":
                for source in self._variables_read_by(node):
                    last[source] = self.order[node]
        for feature in self.draft.features:
            for node in nodes_in(feature.value):
                for source in {node, *self._variables_read_by(node)} if node in self.inlined else {node}:
                    last[source] = _FOREVER
        return last

    def _variables_read_by(self, node: fx.Node) -> list[fx.Node]:
        """List the variables that the statement of a node reads, through what is inlined in it."""
        variables: list[fx.Node] = []
        for source in node.all_input_nodes:
            variables += self._variables_read_by(source) if source in self.inlined else [source]
        return variables

    def _keys(self) -> dict[fx.Node, str]:
        keys: dict[fx.Node, str] = {}
        for feature in self.draft.features:
            if isinstance(feature.value, fx.Node):
                keys.setdefault(feature.value, feature.keys[0])
        return keys

    # -- variables --------------------------------------------------------------------------------------------------

    def variable(self, node: fx.Node) -> str:
        """Spell a node that another one uses."""
        return self.speller.node(node) if node in self.inlined else self.variables[node]

    def _bind(self, node: fx.Node, name: str) -> None:
        self.variables[node] = name
        self.needed[name] = max(self.needed.get(name, -1), self.last_use.get(node, -1))

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, self.numbers.get(wanted, 0)
        while name in self.given or self._is_global(name) or hasattr(builtins, name):
            count += 1
            name = f"{wanted}_{count}"
        self.numbers[wanted] = count
        self.given.add(name)
        return name

    def _is_global(self, name: str) -> bool:
        return name in self.names.objects or name in self.reserved

    def _name(self, node: fx.Node) -> str:
        if node in self.keys and not self._is_input(self.keys[node]):
            return self._fresh(to_identifier(self.keys[node]))
        if not holds_tensor(meta_of(node).value):
            return self._fresh(_short_name(node))
        dying = self._dying(node)
        if dying is not None:
            self.rebound.add(self.origins.get(self.variables[dying], dying))
            return self.variables[dying]
        name = self._chain_name(node) if node in self.chains else self._fresh(_short_name(node))
        self.origins[name] = node
        return name

    def _chain_name(self, node: fx.Node) -> str:
        """Name a variable that is bound again and again: a free one of those there are, else a new letter."""
        for name in (*self._first_input(), *_LETTERS):
            if self.needed.get(name, -1) < self.order[node] and not self._is_global(name):
                self.given.add(name)
                return name
        return self._fresh("value")

    def _first_input(self) -> list[str]:
        return [self.variables[node] for node in self.inputs[:1]]

    def _is_input(self, key: str) -> bool:
        return any(node.name == key for node in self.inputs)

    def _dying(self, node: fx.Node) -> fx.Node | None:
        """Return the first tensor whose last use this is; its variable is free to be bound again."""
        here = self.order[node]
        for source in self._variables_read_by(node):
            if (
                self.needed.get(self.variables.get(source, ""), -1) <= here
                and isinstance(meta_of(source).value, TensorMeta)
                and source not in self.keys
            ):
                return source
        return None

    # -- statements -------------------------------------------------------------------------------------------------

    def write(self) -> Source:
        head = self._signature()
        if any(
            ("device_type", MODEL_DEVICE) in context.arguments
            for node in self.nodes
            for context in meta_of(node).contexts
        ):
            self._write_device()
        for node in self.nodes:
            if node.op != "placeholder" and node not in self.inlined and node not in self.unpacked:
                self._statement(node)
        self.contexts = ()
        returned = {key: self.speller.value(value) for key, value in values_by_key(self.draft.features).items()}
        body = "\n".join([*self.lines, _TAB + write_return(returned, "dict")])
        imports = "".join(f"{line}\n" for line in sorted(self.names.imports.values()))
        text = f"{imports}\n\n{head}\n{body}\n" if imports else f"{head}\n{body}\n"
        return Source(text, dict(self.names.carried), self.draft.tapped_calls, returned)

    def _signature(self) -> str:
        parameters = [inspect.Parameter(self.receiver, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        for parameter in self.draft.recording.signature.parameters.values():
            self.given.add(parameter.name)
            default = parameter.default
            if default is not parameter.empty:
                default = _Spelled(self.speller.value(default))
            parameters.append(parameter.replace(annotation=parameter.empty, default=default))
        if parameters[1:] and parameters[1].kind is inspect.Parameter.POSITIONAL_ONLY:
            parameters[0] = parameters[0].replace(kind=inspect.Parameter.POSITIONAL_ONLY)
        for node in self.nodes:
            if node.op == "placeholder":
                self._bind(node, str(node.target).lstrip("*"))
        return f"def forward{inspect.Signature(parameters)}:"

    def _write_device(self) -> None:
        first = next(node for node in self.nodes if isinstance(meta_of(node).value, TensorMeta))
        self.device = self._fresh("device_type")
        self.lines.append(f"{_TAB}{self.device} = {self.variable(first)}.device.type")

    def _statement(self, node: fx.Node) -> None:
        self._enter(meta_of(node).contexts)
        target: Any = node.target
        if target is check:
            self._check(node)
        elif target is run_tapped:
            self._run_tapped(node)
        elif target in IN_PLACE and isinstance(node.args[0], fx.Node) and node.args[0] not in self.inlined:
            owner = self.variables[node.args[0]]
            self._line(f"{owner} {IN_PLACE[target]} {self.speller.value(node.args[1])}")
            self._bind(node, owner)
        elif target.__class__ is not str and target.__name__ == "setitem" and target.__module__ == "_operator":
            holder, key, value = node.args
            self._line(f"{self.speller.value(holder)}[{self.speller.index(key)}] = {self.speller.value(value)}")
        elif target is setattr:
            holder, key, value = node.args
            self._line(f"{self.speller.value(holder)}.{key} = {self.speller.value(value)}")
        else:
            self._assign(node)

    def _assign(self, node: fx.Node) -> None:
        expression = self.speller.node(node)
        if not node.users and self.last_use.get(node) != _FOREVER:
            self._line(expression)
            return
        self._bind(node, self._name(node))
        self._line(f"{self.variables[node]} = {expression}")

    def _check(self, node: fx.Node) -> None:
        actual, expected, place = node.args
        spelled = self.names.spell(check)
        self._line(f"{spelled}({self.speller.value(actual)}, {self.speller.value(expected)}, {place!r})")

    def _run_tapped(self, node: fx.Node) -> None:
        call = next(tapped for tapped in self.draft.tapped_calls if tapped.key == node.args[1])
        self._line(f"# {describe_tapped(call, type(self.draft.recording.root).__name__)}")
        names = ["_", "_"]
        for part in node.users:
            index = 0 if part.args[1] == 0 else 1
            if index == 0 and part not in self.keys:
                names[0] = self._fresh(to_identifier(call.path.rpartition(".")[2] or "result"))
            else:
                names[index] = self._name(part) if index == 0 else self._fresh("taps")
            self._bind(part, names[index])
        owner, key, *rest = node.args
        given = [
            self.speller.value(owner),
            repr(key),
            *(_stars(argument) + self.speller.value(argument) for argument in rest),
        ]
        given += [
            _stars(argument) + self.speller.value(argument)
            if _stars(argument)
            else f"{name}={self.speller.value(argument)}"
            for name, argument in node.kwargs.items()
        ]
        self._line(f"{names[0]}, {names[1]} = {self.names.spell(run_tapped)}({', '.join(given)})")

    def _line(self, text: str) -> None:
        self.lines.append(_TAB * (1 + len(self.contexts)) + text)

    def _enter(self, contexts: tuple[Context, ...]) -> None:
        shared = 0
        while shared < min(len(contexts), len(self.contexts)) and contexts[shared] == self.contexts[shared]:
            shared += 1
        self.contexts = contexts[:shared]
        for context in contexts[shared:]:
            self._line(f"with {self._context(context)}:")
            self.contexts = (*self.contexts, context)

    def _context(self, context: Context) -> str:
        shown = [
            f"{key}={self.device if value == MODEL_DEVICE else self.speller.value(value)}"
            for key, value in context.arguments
        ]
        return f"{self.names.spell(context.factory)}({', '.join(shown)})"


def write_return(returned: Mapping[str, str], kind: ReturnType) -> str:
    """Write the statement that returns values.

    >>> write_return({"a": "x"}, "dict"), write_return({"a": "x"}, "tuple"), write_return({"a": "x"}, "list")
    ("return {'a': x}", 'return (x,)', 'return [x]')
    """
    start, end = {"dict": ("{", "}"), "tuple": ("(", ")"), "list": ("[", "]")}[kind]
    parts = [f"{key!r}: {value}" for key, value in returned.items()] if kind == "dict" else list(returned.values())
    result = f"return {start}{', '.join(parts)}{',' if kind == 'tuple' and len(parts) == 1 else ''}{end}"
    if len(result) <= 100:
        return result
    return f"return {start}\n" + "".join(f"{_TAB * 2}{part},\n" for part in parts) + _TAB + end


def write_as(source: Source, kind: ReturnType) -> Source:
    """Write the same source with its values returned in another form."""
    body, _, _ = source.text.rpartition(f"{_TAB}return ")
    return replace(source, text=f"{body}{_TAB}{write_return(source.returned, kind)}\n")


def _stars(value: Any) -> str:
    """Return the stars before an argument that gathers further ones."""
    target = str(value.target) if isinstance(value, fx.Node) and value.op == "placeholder" else ""
    return target[: len(target) - len(target.lstrip("*"))]


def describe_tapped(call: TappedCall, model: str) -> str:
    """Say in a comment what runs whole, why, and what is copied out of it."""
    names = [repr(tap.name) for tap in call.taps]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    stopped = " It is stopped behind the last of them." if call.stops else ""
    reason = " ".join(call.reason.split())
    copied = ", ".join(names[:_MOST_NAMES]) + more
    return f"{call.path or model} runs whole: {reason}. Hooks copy {copied} out of it.{stopped}"


def _overriding(modules: Mapping[str, nn.Module]) -> frozenset[str]:
    """List the modules whose class does more in ``__call__`` than call ``forward`` with its hooks."""
    return frozenset(path for path, module in modules.items() if type(module).__call__ is not nn.Module.__call__)


class _Spelled:
    """A default value that prints as its source."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def user_of(node: fx.Node) -> fx.Node | None:
    """Return the only user of a node."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _short_name(node: fx.Node) -> str:
    if node.target is getattr and is_identifier(str(node.args[1])):
        return str(node.args[1])
    if node.target is operator.getitem and not holds_tensor(meta_of(node).value):
        return "size"
    if node.op != "call_module":
        return to_identifier(node.name)
    *rest, last = str(node.target).split(".")
    short = [last]
    while rest and not short[0][:1].isalpha():
        short.insert(0, rest.pop())
    return to_identifier("_".join(short))
