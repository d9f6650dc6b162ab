"""Which modules are opened, and what the features need of the recording then."""

from __future__ import annotations

import dataclasses

from torch import fx

from fxfeat.ir.feature import Feature
from fxfeat.ir.guard import Answer, AttributeRead, AttributeWrite, Guard, Unsupported
from fxfeat.ir.module_call import ModuleCall, ancestors, opaque_in
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.opening.seal import Sealed


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which module calls are opened, and what the features need of the recording, all of it before position ``end``.

    ``mutates_python`` are the module calls that change what Python holds, by which later ones may go.
    """

    opened: frozenset[int]
    needed: frozenset[fx.Node]
    features: tuple[Feature, ...]
    guards: tuple[Guard, ...]
    end: int
    mutates_python: frozenset[int] = frozenset()
    sealed: Sealed = dataclasses.field(default_factory=Sealed)
    _whole: dict[int, int | None] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def whole_call(self, recording: Recording, module_call: int) -> int | None:
        """Return the outermost module call around ``module_call`` (or itself) that stays whole, if any."""
        if module_call not in self._whole:
            chain = [module_call, *ancestors(recording.module_calls, module_call)]
            self._whole[module_call] = next((index for index in reversed(chain) if index not in self.opened), None)
        return self._whole[module_call]


def arguments_of(module_call: ModuleCall) -> list[fx.Node]:
    """List the nodes that a module call is given."""
    return nodes_in((module_call.args, module_call.kwargs))


def uses_of(recording: Recording, plan: Plan) -> list[tuple[fx.Node, int | None]]:
    """List each use of a node with the whole module call it is used in, or None for open code."""
    uses: list[tuple[fx.Node, int | None]] = []
    for node in plan.needed:
        home = plan.whole_call(recording, meta_of(node).module_call)
        uses += [(source, home) for source in node.all_input_nodes]
    uses += [(guard.node, None) for guard in plan.guards]
    uses += [(node, None) for feature in plan.features if not feature.tap for node in nodes_in(feature.value)]
    for whole_call in whole_calls_of(recording, plan):
        uses += [(node, None) for node in arguments_of(recording.module_calls[whole_call])]
    return uses


def whole_calls_of(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls that the features need."""
    whole_calls = {plan.whole_call(recording, meta_of(node).module_call) for node in plan.needed}
    whole_calls |= {
        plan.whole_call(recording, feature.module_call) for feature in plan.features if feature.module_call is not None
    }
    whole_calls |= {feature.whole for feature in plan.features}
    whole_calls |= whole_calls_mutating_python(recording, plan)
    reached: set[int] = set()
    waiting = [whole_call for whole_call in whole_calls if whole_call is not None]
    while waiting:
        whole_call = waiting.pop()
        if whole_call not in reached:
            reached.add(whole_call)
            waiting += givers_of_objects(recording, plan, recording.module_calls[whole_call])
    return reached


def whole_calls_mutating_python(recording: Recording, plan: Plan) -> set[int | None]:
    """List the whole module calls before the end that change what Python holds."""
    return {
        plan.whole_call(recording, index)
        for index in plan.mutates_python
        if recording.module_calls[index].start < plan.end
    }


def givers_of_objects(recording: Recording, plan: Plan, module_call: ModuleCall) -> list[int]:
    """List the whole calls that returned an object which nobody could write down, and which a call is given."""
    opaques = opaque_in((module_call.args, module_call.kwargs))
    sources = [opaque.module_call for opaque in opaques if opaque.module_call is not None]
    whole_calls = [plan.whole_call(recording, source) for source in sources]
    return [whole_call for whole_call in whole_calls if whole_call is not None]


def happens_in_time(
    recording: Recording, plan: Plan, step: Answer | Guard | Unsupported | AttributeRead | AttributeWrite
) -> bool:
    """Say whether something happened before all that is needed was done.

    What a module decides at its very end, with no operation behind it, still decides what it returns.
    """
    if step.position < plan.end or (isinstance(step, Unsupported) and step.acts_on in plan.needed):
        return True
    around = {step.module_call, *ancestors(recording.module_calls, step.module_call)}
    if any(feature.module_call in around and step.position <= feature.produced_at for feature in plan.features):
        return True
    return any(_decides_on_call(recording, feature, step.module_call, step.position) for feature in plan.features)


def _decides_on_call(recording: Recording, feature: Feature, module_call: int, position: int) -> bool:
    """Say whether a step may decide that a module is called with a feature, or how often a module is called."""
    if feature.listed or (feature.tap is not None and feature.tap.every):
        return True
    is_before = feature.given_to is not None and position <= feature.produced_at
    return is_before and module_call in ancestors(recording.module_calls, feature.given_to or 0)


def is_settled_by_hooks(recording: Recording, plan: Plan, step: Guard | Unsupported) -> bool:
    """Say whether a step matters only where no hook looks inside its module, and what is asked for takes such hooks."""
    if not step.hooks_settle:
        return False
    # What the model itself returns is had without a hook.
    asked = {feature.origin.path for feature in plan.features if feature.origin is not None and feature.origin.path}
    calls = (call for call in recording.module_calls if call.path in asked)
    return any(step.module_call in (call.index, *ancestors(recording.module_calls, call.index)) for call in calls)


def lookers_of(recording: Recording, plan: Plan) -> list[fx.Node]:
    """List the hooks of opened modules that only look on."""
    every: list[fx.Node] = [node for node in recording.graph.nodes if meta_of(node).look]
    return [node for node in every if plan.whole_call(recording, meta_of(node).module_call) is None]


def is_looked_at(recording: Recording, call: ModuleCall, end: int) -> bool:
    """Say whether a hook of the user's looks on inside a call, from a position on."""
    return any(meta_of(node).look is not None for node in recording.nodes[max(call.start, end) : call.stop])
