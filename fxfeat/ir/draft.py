"""What a pass takes and returns: a graph, the features wanted of it, and the recording it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from fxfeat.ir.feature import Feature
from fxfeat.ir.guard import Reading
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tap import TappedCall


@dataclass(frozen=True)
class Draft:
    """A graph on its way from recording to emitted code.

    ``on_model`` says that the code runs on the model's own tree of modules, not on a tree of what is left of it.
    ``implicit_inputs`` are the whole modules that turned out to use what they are not given;
    ``opens_implicit_inputs`` says to open those, and to leave out no module where code changes what Python holds.
    ``tapped`` are the modules that are not to be opened, with the reasons, and ``tapped_calls`` what became of their
    calls; ``may_stop`` says that they may be stopped behind the last value. ``told`` says that opened code may have
    gone by a size of an input, ``told_dtypes`` that it may have gone by a dtype; ``readings`` are the attributes of
    modules that it goes by.
    """

    recording: Recording
    graph: fx.Graph
    features: tuple[Feature, ...]
    opened: tuple[str, ...] = ()
    flatten: bool = False
    input_guards: tuple[Any, ...] = ()
    on_model: bool = False
    opens_implicit_inputs: bool = False
    implicit_inputs: tuple[str, ...] = ()
    tapped: Mapping[str, str] = field(default_factory=dict)
    tapped_calls: tuple[TappedCall, ...] = ()
    may_stop: bool = True
    told: bool = True
    told_dtypes: bool = True
    readings: frozenset[Reading] = frozenset()


def last_produced_at(features: tuple[Feature, ...]) -> int:
    """Return the position by which the last feature was produced."""
    return max((feature.produced_at for feature in features), default=0)


def position(node: fx.Node) -> int:
    """Return when a node ran."""
    return meta_of(node).position
