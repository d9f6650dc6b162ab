"""Hand intermediates out the way they were asked for."""

from __future__ import annotations

from typing import Any

import torch

Map = tuple[torch.Tensor, torch.Tensor | None]


def arrange(maps: list[Map], features: torch.Tensor | None, return_prefix_tokens: bool, output_dict: bool) -> Any:
    """Arrange maps and their prefix tokens as a list, a pair or a dict.

    >>> arrange([(1, None)], 2, False, False), arrange([(1, None)], None, False, False)
    ((2, [1]), [1])
    >>> arrange([(1, 3)], 2, True, True)
    {'image_intermediates': [1], 'image_intermediates_prefix': [3], 'image_features': 2}

    Args:
        maps: each with its prefix tokens, if it has any.
        features: the model's features, if they are wanted.
        return_prefix_tokens: hand the prefix tokens out as well.
        output_dict: return a dict.

    Source: what timm's ``forward_intermediates`` returns.
    """
    plain = [image_map for image_map, _ in maps]
    prefixes = [prefix for _, prefix in maps if prefix is not None] if return_prefix_tokens else []
    if output_dict:
        named: dict[str, Any] = {"image_intermediates": plain}
        if prefixes:
            named["image_intermediates_prefix"] = prefixes
        return named if features is None else {**named, "image_features": features}
    listed: list[Any] = list(maps) if prefixes else plain
    return listed if features is None else (features, listed)
