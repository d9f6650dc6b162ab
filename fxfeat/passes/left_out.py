"""Which nodes of a recording a rewritten graph leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import fx

from fxfeat.ir.emission import Emission
from fxfeat.ir.module_call import ancestors
from fxfeat.ir.node_meta import Storage, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.runtime.check import check
from fxfeat.runtime.run_tapped import run_tapped


def left_out(
    recording: Recording, graph: fx.Graph, nodes: Iterable[fx.Node], stopped: Collection[str] = ()
) -> list[fx.Node]:
    """List those of some recorded nodes that neither stand in a graph nor run in a module that it calls.

    Of what runs in the tapped calls ``stopped``, by key, it is not known.
    """
    tapped = (node for node in graph.nodes if node.target is run_tapped and node.args[1] not in stopped)
    calls = [*(node for node in graph.nodes if node.op == "call_module"), *tapped]
    whole = {meta_of(node).module_call for node in calls}
    calls_written = (node for node in graph.nodes if node.op in ("call_function", "call_method"))
    # A check stands at the position of whatever the model did next.
    written = {meta_of(node).position for node in calls_written if node.target is not check}

    def is_there(node: fx.Node) -> bool:
        index = meta_of(node).module_call
        around = {index, *ancestors(recording.module_calls, index)}
        return meta_of(node).position in written or not whole.isdisjoint(around)

    return [node for node in nodes if not is_there(node)]


def list_state(state: Iterable[str], emission: Emission) -> frozenset[str]:
    """List those of some parameters and buffers, by path, that code uses."""
    modules, tensors = emission.used_state.modules, emission.used_state.tensors
    owners = {".".join(filter(None, (call.path, inner))) for call in emission.tapped for inner in call.used}

    def is_used(path: str) -> bool:
        steps = path.split(".")
        return (
            path in tensors
            or ".".join(steps[:-1]) in owners
            or any(".".join(steps[:end]) in modules for end in range(1, len(steps)))
        )

    return frozenset(filter(is_used, state))


def memory_of_state(recording: Recording, state: Collection[str]) -> frozenset[Storage]:
    """Return the memory of parameters and buffers in a recording."""
    return frozenset(recording.state[path] for path in state if path in recording.state)


def state_to_keep(recording: Recording, emission: Emission, other: Emission) -> frozenset[str]:
    """List the parameters and buffers that code of the other mode uses, if code leaves out updates of any."""
    every = frozenset(recording.state.values())
    updates = [node for node in recording.nodes if meta_of(node).writes & every]
    if emission.graph is None or not updates:
        return frozenset()
    state = list_state(recording.state, other)
    memory = memory_of_state(recording, state)
    stopped = {call.key for call in emission.tapped if call.stops}
    needed = (node for node in updates if meta_of(node).writes & memory)
    missing = left_out(recording, emission.graph, needed, stopped)
    return state if missing else frozenset()
