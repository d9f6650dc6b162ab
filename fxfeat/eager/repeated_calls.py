"""Find out whether features change from call to call with what the model keeps in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxfeat.eager.observe import Observation, buffers_after, is_meta, observe, observe_by_counting
from fxfeat.errors import FxfeatError, TraceError
from fxfeat.ir.emission import Row
from fxfeat.ir.equality import is_equal
from fxfeat.ir.guard import spell_attribute
from fxfeat.ir.tree import copy_tensors, tensors
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.preserved import lent_buffers, preserved
from fxfeat.isolation.python_state import PythonState
from fxfeat.isolation.random_state import draw_from_each, read_random, restore_random
from fxfeat.isolation.torch_settings import same_switches
from fxfeat.runtime.transformed import refuse_transformed


def check_repeats(
    model: nn.Module,
    observation: Observation,
    changed: Sequence[tuple[str, str]],
    path: str,
    between: bool | None = None,
) -> None:
    """Raise where a second call of the model gives other features, because the first one changed its attributes.

    Buffers that it leaves count as well: the features of a later call, or of the other mode, may read them.

    A cache changes attributes too, but not what is computed; so the model is run rather than read.

    Args:
        model: the model; it comes back as it was.
        observation: the features, and what to run the model on.
        changed: path of the module and name of each attribute that a call changes, in opened modules.
        path: the module that has to be called whole for it.
        between: the mode of the first call; None for that of the second.

    Raises:
        TraceError: naming the attributes.
    """
    differing = _differing(model, observation, changed, between)
    if not differing:
        return
    shown = " and ".join(sorted({spell_attribute(home, name) for home, name in changed}))
    raise TraceError(
        f"{differing[0]!r} changes from call to call with {shown} of {type(model).__name__}, which its code keeps in "
        "plain Python; written-out code could not. Ask for features outside that module, or make it a buffer.",
        path=path,
        reason=f"it changes {shown} from call to call, which its code keeps in plain Python",
    )


def _differing(
    model: nn.Module, observation: Observation, changed: Sequence[tuple[str, str]], between: bool | None
) -> list[str]:
    """List the features, else the buffers, that a second call gives otherwise than the first."""
    if is_meta(model):
        return []
    random = read_random()
    try:
        with same_switches(), preserved(model) as before, torch.no_grad():
            first = copy_observed(model, before, observation)
            left = _copy_buffers(model, before, observation, random)
        with same_switches(), preserved(model) as state, torch.no_grad():
            if between is not None:
                set_mode(model, between)
            with lent_buffers(model, keep=changed, also=state):
                restore_random(random)
                # What is drawn once and kept must not be what the second call would draw.
                draw_from_each()
                model(*_other(observation.example.args), **_other(observation.example.kwargs))
            restore_random(random)
            with preserved(model) as before:
                again = copy_observed(model, before, observation)
                left_again = _copy_buffers(model, before, observation, random)
    except FxfeatError:
        raise
    except Exception:
        return []  # the example is one that the model was recorded on, but does not run on
    differing = [key for key in first if key not in again or not equal_values(first[key], again[key])]
    kept = {f"{path}.{name}" if path else name for path, name in changed}
    buffers = (name for name in left if name in left_again and name not in kept)
    return differing or [name for name in buffers if not is_equal(left[name], left_again[name])]


def _copy_buffers(model: nn.Module, before: PythonState, observation: Observation, random: Any) -> dict[str, Any]:
    """Copy what one more call, from the same state on, leaves in buffers, if there are any."""
    if next(model.buffers(), None) is None:
        return {}
    before.restore()
    restore_random(random)
    return buffers_after(model, before, observation)


def copy_observed(model: nn.Module, before: PythonState, observation: Observation) -> dict[str, Any]:
    """Copy each feature at the moment it is produced."""
    seen: dict[str, Any] = {}

    def copy(row: Row, value: Any) -> None:
        refuse_transformed(row.name, value, TraceError)
        seen[row.key] = copy_tensors(value)

    random = read_random()
    observe_by_counting(model, before, observation, copy)
    unseen = [row for row in observation.rows if row.key not in seen]
    if unseen:
        before.restore()
        restore_random(random)
        observe(model, before, observation.only(unseen), copy)
    return seen


def _other(value: Any) -> Any:
    """Copy arguments with other values, so that a result kept from one call shows in the next."""
    other = copy_tensors(value)
    for _, tensor in tensors(other):
        if tensor.is_floating_point():
            tensor.mul_(-0.75).add_(0.125)  # no mirror image, of which norms and energies are the same
        elif tensor.dim():
            tensor.copy_(tensor.roll(1, -1).clone())
    return other


def equal_values(left: Any, right: Any) -> bool:
    """Say whether two values hold the same tensors."""
    ours, theirs = [tensor for _, tensor in tensors(left)], [tensor for _, tensor in tensors(right)]
    return len(ours) == len(theirs) and all(map(is_equal, ours, theirs))
