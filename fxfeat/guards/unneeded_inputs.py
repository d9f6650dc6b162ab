"""Inputs that no feature needs: they are taken in any form, and nothing of them is checked."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection

from torch import fx

from fxfeat.guards.free_sizes import is_same_code
from fxfeat.ir.emission import Emission
from fxfeat.ir.guard import OF_CALL
from fxfeat.runtime.check import check
from fxfeat.runtime.snapshot import is_still

_LOOKING = (isinstance, len, list, is_still, getattr, operator.getitem, operator.is_, "dim")


def list_unneeded(emission: Emission, given: Collection[str]) -> frozenset[str]:
    """List the arguments, of those that were given, on which code does nothing but check what they are like."""
    assert emission.graph is not None
    inputs = (node for node in emission.graph.nodes if node.op == "placeholder")
    return frozenset(
        node.target for node in inputs if node.target in given and all(map(_only_looks, node.users)) and node.users
    )


def _only_looks(node: fx.Node) -> bool:
    if node.target is check:
        # What the model's own code went by is checked by the line that did.
        return str(node.args[2]).startswith(f"{OF_CALL}:") or getattr(node.args[0], "target", "") == "dim"
    if node.target is operator.is_ and node.args[1] is not None:
        return False  # whether it is the same tensor as another input
    return node.target in _LOOKING and all(map(_only_looks, node.users))


def are_unneeded(emit_bare: Callable[[], Emission], emit_others: Collection[Callable[[], Emission]]) -> bool:
    """Say whether code is the same where something else is given, up to the last feature.

    Args:
        emit_bare: emits without checks of the arguments in question.
        emit_others: emit the same for runs that are given something else in their place.
    """
    try:
        bare = emit_bare()
        return all(is_same_code(bare, emit_other()) for emit_other in emit_others)
    except Exception:  # the model's own code may raise anything at what it is given in their place
        return False
