"""Which whole module calls use what they were not given: another one left it behind in Python."""

from __future__ import annotations

from torch import fx

from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.opening.plan import Plan, arguments_of, givers_of_objects, whole_calls_of


def find_implicit_inputs(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls that use what another module, or opened code, left behind in Python."""
    return {index for index in whole_calls_of(recording, plan) if _takes_unseen(recording, plan, index)}


def _takes_unseen(recording: Recording, plan: Plan, index: int) -> bool:
    module_call = recording.module_calls[index]
    given = {_origin(node) for node in arguments_of(module_call)}
    givers = set(givers_of_objects(recording, plan, module_call))
    inside = recording.nodes[module_call.start : module_call.stop]
    sources = (source for node in inside for source in node.all_input_nodes if source.op != "get_attr")
    return any(
        _origin(source) not in given and plan.whole_call(recording, meta_of(source).module_call) not in givers
        for source in sources
        if meta_of(source).position < module_call.start
    )


def _origin(node: fx.Node) -> fx.Node:
    """Follow a tensor back through modules that returned it as it came."""
    while meta_of(node).same_as is not None or meta_of(node).passed:
        node = meta_of(node).same_as or node.all_input_nodes[0]
    return node
