"""Requests that stand for several names: patterns, and classes of modules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from fxfeat.errors import NodeNotFoundError, RequestError
from fxfeat.names.query import suggest
from fxfeat.names.wrappers import WRAPPING, leave_out, spell_out

_MANY = 8
_WILD = {"**.": r"((?:[^.]+\.)*)", ".**": r"((?:\.[^.]+)+)", "**": r"(.+)", "*": r"([^.]*)", "?": r"([^.])"}


@dataclass(frozen=True)
class Several:
    """A pattern, or classes of modules, and how keys are written of what its stars stand for; "" are the names."""

    asked: str | tuple[type[nn.Module], ...]
    template: str = ""

    def __str__(self) -> str:
        if isinstance(self.asked, str):
            return self.asked
        return " or ".join(kind.__name__ for kind in self.asked)


Request = Mapping[str, str | Several]
"""What to return, by key; a pattern has itself as the key until it is expanded."""


@dataclass(frozen=True)
class Names:
    """What there is to be named: the calls of modules, by path and identity, in their order, then nodes."""

    root: nn.Module
    calls: tuple[tuple[str, int], ...]
    nodes: tuple[str, ...]
    mode: str


def is_pattern(query: str) -> bool:
    """Say whether a name stands for several.

    >>> is_pattern("blocks.*"), is_pattern("gru@*")
    (True, False)
    """
    return not {"*", "?"}.isdisjoint(_split(query)[0])


def expand(names: Names, request: Request) -> dict[str, str]:
    """Put names in the place of patterns and classes.

    Raises:
        NodeNotFoundError: for one that nothing matches.
        RequestError: for two names under one key.
    """
    expanded: dict[str, str] = {}
    for key, query in request.items():
        for one, name in _expand(names, query) if isinstance(query, Several) else [(key, query)]:
            add_key(expanded, one, name, "The request")
    return expanded


def add_key(request: dict[str, str], key: str, query: str, argument: str) -> None:
    """Put a name under a key.

    Raises:
        RequestError: where another one has the key.
    """
    if request.setdefault(key, query) != query:
        raise RequestError(
            f"{argument} gives the key {key!r} to two nodes, {request[key]!r} and {query!r}. "
            "Give each a key of its own."
        )


def reaches(root: nn.Module, several: Several, path: str) -> bool:
    """Say whether a module is one of those that were asked for, if it runs."""
    if isinstance(several.asked, str):
        return _match(root, several.asked, path) is not None
    return path != "" and isinstance(root.get_submodule(path), several.asked)


def _expand(names: Names, several: Several) -> list[tuple[str, str]]:
    """List the names, each after its key."""
    if not isinstance(several.asked, str):
        return [(_key(several, name, (name,)), name) for name in _of_classes(names, several, several.asked)]
    if several.asked in (*names.nodes, *(path for path, _ in names.calls)):
        return [(several.template or several.asked, several.asked)]
    suffix = _split(several.asked)[1]
    matched = _matched(names, several.asked)
    return [(_key(several, name + suffix, parts), name + suffix) for name, parts in matched.items()]


def _key(several: Several, name: str, parts: tuple[str, ...]) -> str:
    if not several.template:
        return name
    if "{" not in several.template:
        raise RequestError(
            f"One key, {several.template!r}, is given to all that {str(several)!r} stands for. Write {{}} for what "
            f"differs, as in {several.template + '{}'!r}."
        )
    try:
        return several.template.format(*(part.strip(".") for part in parts))
    except (LookupError, ValueError) as error:
        raise RequestError(
            f"{several.template!r} is no key for what {str(several)!r} stands for. Write {{}} for each star, as in "
            "{'blocks.*': 'b{}'}."
        ) from error


def _of_classes(names: Names, several: Several, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """List the calls of modules of some classes, with their number where a module is called more than once."""
    modules = {id(module): module for module in names.root.modules()}
    times, before = Counter(module for _, module in names.calls), Counter[int]()
    listed = []
    for path, module in names.calls:
        if path and isinstance(modules.get(module), kinds):
            listed.append(path if times[module] == 1 else f"{path}@{before[module]}")
        before[module] += 1
    if listed:
        return listed
    others = list(dict.fromkeys(type(modules[module]).__name__ for path, module in names.calls if path))
    shown = ", ".join(others[:_MANY]) + (f" and {len(others) - _MANY} more" if len(others) > _MANY else "")
    raise NodeNotFoundError(
        f"{type(names.root).__name__} has no module of the class {several} that runs in {names.mode} mode. Those that "
        f"run are of the classes {shown}."
    )


def _matched(names: Names, pattern: str) -> dict[str, tuple[str, ...]]:
    """Map what matches to what its stars stand for: modules, else modules by other paths, else nodes."""
    ran = dict.fromkeys(path for path, _ in names.calls if path)
    for candidates in (ran, _by_other_paths(names), names.nodes):
        matched = {match[0]: match[1] for path in candidates if (match := _match(names.root, pattern, path))}
        if matched:
            return matched
    choices = list(dict.fromkeys((*names.nodes, *ran)))
    raise NodeNotFoundError(
        f"{type(names.root).__name__} has no node or module that matches {pattern!r} in {names.mode} mode."
        f"{suggest(_split(pattern)[0], choices)} fxfeat.get_graph_node_names(model) lists all {len(names.nodes)} names."
    )


def _by_other_paths(names: Names) -> Iterator[str]:
    paths: dict[int, list[str]] = {}
    for path, module in names.root.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    return (path for module in dict.fromkeys(module for _, module in names.calls) for path in paths.get(module, ()))


def _match(root: nn.Module, pattern: str, path: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the spelling of a path that a pattern matches, and what its stars stand for."""
    wanted = _split(pattern)[0]
    # A star stands for no part of a wrapper.
    spellings = [path] if not set(WRAPPING).isdisjoint(wanted.split(".")) else []
    for spelled in (leave_out(root, path), *spellings):
        for written in (wanted, spell_out(root, wanted)):
            match = re.fullmatch(_to_expression(written), spelled)
            if match and spelled:
                return spelled, match.groups()
    return None


def _to_expression(pattern: str) -> str:
    """Write a pattern as an expression.

    >>> re.fullmatch(_to_expression("layer?.*"), "layer1.0.conv1"), re.fullmatch(_to_expression("**.conv1"), "conv1")[1]
    (None, '')
    """
    parts = re.split(r"(\*\*\.|\.\*\*$|^\*\*$|\*|\?)", pattern)
    return "".join(_WILD[part] if part in _WILD else re.escape(part) for part in parts)


def _split(query: str) -> tuple[str, str]:
    """Take the path from what comes after it.

    >>> _split("blocks.*@1:in[0]")
    ('blocks.*', '@1:in[0]')
    """
    path = re.split(r"@|\[|:in\b", query, maxsplit=1)[0]
    return path, query[len(path) :]
