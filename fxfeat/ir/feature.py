"""One value that was asked for, and where eager code shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fxfeat.ir.node_meta import (
    CallPath,
)
from fxfeat.ir.tap import Tap
from fxfeat.ir.tree import Steps


@dataclass(frozen=True)
class OpOccurrence:
    """How a call of a torch function is told from others: by the number of calls of that name before it.

    They are counted in the code of one module call, outside the modules that it calls; ``steps`` lead on from what
    the function returns.
    """

    path: str
    call: int
    function: str
    number: int
    steps: Steps = ()


@dataclass(frozen=True)
class Given:
    """An argument of ``forward``, or what ``steps`` lead to in it."""

    parameter: str
    steps: Steps = ()


@dataclass(frozen=True)
class Origin:
    """Where eager code shows a feature: a call of the module at ``path``, or a node of a recording.

    ``sign`` tells that node's value from others without a recording. ``is_input`` says that it is what the module is
    called with, ``steps`` then lead on from the pair of positional and keyword arguments; ``every`` that it is a list
    with a value for each call.
    """

    path: str | None
    call: int
    call_path: CallPath = ()
    steps: Steps = ()
    sign: OpOccurrence | Given | None = None
    is_input: bool = False
    every: bool = False


@dataclass(frozen=True)
class Feature:
    """One wanted value.

    ``value`` holds nodes where the value holds tensors, and ``steps`` lead on from there. ``produced_at`` is the
    position of the first node that ran after the value was produced: what overwrites it from there on must not be seen.
    ``module_call`` is the module call that returned it, if the name means one, ``given_to`` the one called with it.
    ``listed`` says that it is the next of a list under its key, with a value for each call. ``tap`` says how it is
    copied out of the call ``whole``, if that stays whole although the value lies inside.
    """

    keys: tuple[str, ...]
    name: str
    value: Any
    steps: Steps
    produced_at: int
    module_call: int | None = None
    origin: Origin | None = None
    tap: Tap | None = None
    whole: int | None = None
    given_to: int | None = None
    listed: bool = False


def values_by_key(features: Iterable[Feature]) -> dict[str, Any]:
    """Map each key to the value under it, in the order asked for."""
    values: dict[str, Any] = {}
    for feature in features:
        for key in feature.keys:
            listed = [*values.get(key, ()), feature.value] if feature.listed else []
            values[key] = listed or feature.value
    return values
