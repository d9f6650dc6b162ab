"""Gradient checkpointing, which is the work of the model's own Python and in no code that is written out."""

from __future__ import annotations

from typing import Any

from fxfeat.backbone.parts import PRUNED_CHECKPOINTS, Parts, rewrite
from fxfeat.errors import RequestError


def switch_checkpointing(parts: Parts, method: str, *args: Any, **kwargs: Any) -> None:
    """Call a model's method that switches checkpointing on or off, and have its parts run that way.

    Raises:
        RequestError: where the model has no such method, or was pruned.
    """
    switch = getattr(parts.root, method, None)
    if switch is None:
        raise RequestError(
            f"{type(parts.root).__name__} has no {method}; wrap its blocks in torch.utils.checkpoint.checkpoint in the "
            "model's own code."
        )
    if parts.is_cut:
        raise RequestError(PRUNED_CHECKPOINTS)
    switch(*args, **kwargs)
    rewrite(parts)
