"""See what eager PyTorch computes for each feature: cloning hooks on modules, a listener for operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxfeat.emit.extractor import Row
from fxfeat.record.alone import unwrap
from fxfeat.record.examples import Example
from fxfeat.record.leaves import Leaves
from fxfeat.record.photograph import Photograph
from fxfeat.record.run import watch
from fxfeat.record.structure import copy_tensors, follow
from fxfeat.record.untouched import lent_buffers


def see(
    model: nn.Module,
    before: Photograph,
    rows: Sequence[Row],
    leaves: Leaves,
    example: Example,
    training: bool | None,
) -> dict[str, Any]:
    """Run a model and copy each feature at the moment it is produced.

    Args:
        model: the model; its buffers stay as they are, its attributes are left as the run leaves them.
        before: the attributes that every run is to start from.
        rows: the features.
        leaves: what was called rather than entered when the rows were recorded.
        example: the arguments to run it with.
        training: the mode to run it in; None leaves every flag as it is.

    Returns:
        The values by key. What the run does not reach is missing.
    """
    modules = [row for row in rows if row.origin is not None and row.origin.path is not None]
    operations = [row for row in rows if row.origin is not None and row.origin.path is None]
    _set_mode(model, training)
    seen: dict[str, Any] = {}
    random = torch.get_rng_state()
    with torch.compiler.set_stance("force_eager"):
        if modules:
            with lent_buffers(model, also=before):
                seen.update(_hooked(model, modules, _copied(example)))
        if operations:
            if modules:
                before.restore()
                torch.set_rng_state(random)
                _set_mode(model, training)
            with lent_buffers(model, also=before):
                seen.update(_watched(model, leaves, operations, _copied(example)))
    return seen


def _copied(example: Example) -> Example:
    """Copy the tensors, which the model may write to."""
    return Example(copy_tensors(example.args), copy_tensors(example.kwargs))


def _set_mode(model: nn.Module, training: bool | None) -> None:
    if training is not None and any(module.training != training for module in model.modules()):
        model.train(training)


def _hooked(model: nn.Module, rows: list[Row], example: Example) -> dict[str, Any]:
    expected: dict[str, Any] = {}
    wanted: dict[nn.Module, list[Row]] = {}
    modules = dict(model.named_modules(remove_duplicate=False)) if len(rows) > 1 else {}
    for row in rows:
        path = row.origin.path or "" if row.origin is not None else ""
        wanted.setdefault(modules.get(path) or model.get_submodule(path), []).append(row)
    handles = [module.register_forward_hook(_keeper(held, expected)) for module, held in wanted.items()]
    try:
        result = model(*example.args, **example.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    for row in rows:
        if row.origin is not None and not row.origin.path and row.origin.call == 0:
            # A hook does not see what a class adds in a __call__ of its own.
            expected[row.key] = copy_tensors(follow(result, row.origin.steps))
    return expected


def _keeper(rows: list[Row], expected: dict[str, Any]) -> Any:
    calls = [0]

    def keep(module: nn.Module, inputs: Any, result: Any) -> None:
        for row in rows:
            if row.origin is not None and row.origin.call == calls[0]:
                expected[row.key] = copy_tensors(follow(result, row.origin.steps))
        calls[0] += 1

    return keep


def _watched(model: nn.Module, leaves: Leaves, rows: list[Row], example: Example) -> dict[str, Any]:
    """See operations that no hook can see, by listening to an eager run."""
    origins = {row.key: row.origin for row in rows if row.origin is not None}
    addresses = frozenset(origin.address for origin in origins.values())
    seen = watch(unwrap(model), example, leaves, addresses)
    return {key: follow(seen[o.address], o.steps) for key, o in origins.items() if o.address in seen}
