"""Levels beyond those of the model."""

from __future__ import annotations

from typing import Any

from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from fxfeat.errors import RequestError


def make_extra_blocks(extra_blocks: Any, out_channels: int) -> ExtraFPNBlock | None:
    """Make what ``extra_blocks`` stands for.

    Example:
        >>> make_extra_blocks("pool", 256)
        LastLevelMaxPool()

    Args:
        extra_blocks: ``"pool"``, ``"p6p7"``, None, or a block of the user's own.
        out_channels: of the levels that the blocks are fed with.

    Raises:
        RequestError: for anything else.
    """
    if extra_blocks is None or isinstance(extra_blocks, ExtraFPNBlock):
        return extra_blocks
    if isinstance(extra_blocks, str) and extra_blocks == "pool":
        return LastLevelMaxPool()
    if isinstance(extra_blocks, str) and extra_blocks == "p6p7":
        return LastLevelP6P7(out_channels, out_channels)
    raise RequestError(
        f"extra_blocks is {extra_blocks!r}; it must be 'pool', 'p6p7', None or a torchvision.ops.feature_pyramid_"
        "network.ExtraFPNBlock."
    )
