"""Put something else behind the names by which a model's code calls functions."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from fxfeat.isolation.patching import patch_globals
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.leaves import FLEX_ATTENTION, Leaves
from fxfeat.trace.patches.conversions import follow_conversions
from fxfeat.trace.patches.functions_reached import find_functions
from fxfeat.trace.patches.whole_functions import call_whole


@dataclass(frozen=True)
class CalledNames:
    """Where names were looked at already, and what stands behind them until ``undo`` is closed.

    ``replacements`` maps the identity of a patched function to what was put in its place, since files may have imported
    it by name. ``builtins`` are put over Python's own.
    """

    trace: Trace
    leaves: Leaves
    undo: ExitStack
    builtins: dict[str, Any]
    replacements: dict[int, Any] = field(default_factory=dict)
    namespaces: set[int] = field(default_factory=set)
    classes: set[type] = field(default_factory=set)


def wrap_names(names: CalledNames, modules: Iterable[nn.Module]) -> None:
    """Wrap what the code of a model's modules calls by name."""
    if not names.leaves.only_torch:
        _wrap_registered(names)
    wrap_files(names, modules)
    _wrap_flex_attention(names)
    for module in names.leaves.searched:
        _wrap_globals(names, vars(module))


def wrap_files(names: CalledNames, modules: Iterable[nn.Module]) -> None:
    """Wrap what the code of some modules calls by name."""
    kinds = frozenset(map(type, modules)) - names.classes
    names.classes.update(kinds)
    functions = find_functions(kinds)
    for function in functions:
        _wrap_globals(names, function.__globals__)
    follow_conversions(names.trace, functions, names.undo)


def _wrap_registered(names: CalledNames) -> None:
    """Honour ``torch.fx.wrap``."""
    for (_, name), namespace in list(fx._symbolic_trace._wrapped_fns_to_patch.items()):
        if name in namespace and callable(namespace[name]):
            _wrap(names, namespace, [name])


def _wrap_flex_attention(names: CalledNames) -> None:
    """Models come to it by functions of files that have none of their classes, if anything has loaded it."""
    if FLEX_ATTENTION not in sys.modules:
        return
    for namespace in _namespaces_with("flex_attention", len(sys.modules)):
        if id(namespace.get("flex_attention")) in names.leaves.functions:
            _wrap(names, namespace, ["flex_attention"])


@functools.lru_cache(maxsize=1)
def _namespaces_with(name: str, loaded: int) -> list[dict[str, Any]]:
    """List where a name stands in any file; thousands are loaded, and looked through when that number changes."""
    namespaces = (getattr(module, "__dict__", {}) for module in list(sys.modules.values()))
    return [namespace for namespace in namespaces if name in namespace]


def _wrap_globals(names: CalledNames, namespace: dict[str, Any]) -> None:
    if id(namespace) in names.namespaces:
        return
    names.namespaces.add(id(namespace))
    replacements = {**names.replacements, **_by_identity(names.builtins)}
    public = [(name, id(value)) for name, value in namespace.items() if not name.startswith("__")]
    whole = {name for name, value in public if value in names.leaves.functions and not name.startswith("_")}
    replaced = {name: replacements[value] for name, value in public if value in replacements and name not in whole}
    added = {name: value for name, value in names.builtins.items() if name not in namespace}
    _wrap(names, namespace, whole)
    patch_globals(names.undo, namespace, replaced | (added if "__name__" in namespace else {}))


def _by_identity(replaced: dict[str, Any]) -> dict[int, Any]:
    """Return what stands in for Python's own functions, which files may have given other names."""
    return {id(getattr(builtins, name)): replacement for name, replacement in replaced.items()}


def _wrap(names: CalledNames, namespace: dict[str, Any], called: Iterable[str]) -> None:
    wrappers = {name: _wrapper_of(names.trace, namespace[name], name) for name in called}
    patch_globals(names.undo, namespace, wrappers)


def _wrapper_of(trace: Trace, function: Any, name: str) -> Any:
    if getattr(function, "fxfeat_wraps", None) is not None:
        return function

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return call_whole(trace, function, args, kwargs)

    wrapper.__name__ = getattr(function, "__name__", name)
    vars(wrapper).update(fxfeat_wraps=function, __wrapped__=function)
    return wrapper
