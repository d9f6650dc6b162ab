"""A value of the model that goes through a function, and what the model's code goes on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxfeat.ir.feature import Origin
from fxfeat.ir.tree import Steps


@dataclass(frozen=True)
class Replacement:
    """A name, the function that its value goes through, and where eager code shows that value.

    ``path`` is where an extractor has the function, if that is a module. ``before`` tells what the value was.
    """

    name: str
    function: Callable[[Any], Any]
    path: str
    origin: Origin
    before: str = ""


@dataclass(frozen=True)
class Replaced:
    """One value that was replaced in a recording, by what ``call`` returned.

    The value is what module call ``module_call`` returned, or what ``node`` computed. ``result`` is written as a graph
    holds it, ``result_nodes`` are the nodes in it by the steps to them, and ``produced_at`` is the position of the
    first node that ran after it was there.
    """

    replacement: Replacement
    call: fx.Node
    module_call: int | None
    node: fx.Node | None
    result: Any
    result_nodes: tuple[tuple[Steps, fx.Node], ...]
    produced_at: int
