"""What is known of each level of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Index = int | Sequence[int] | None


class FeatureInfo:
    """The levels of a pyramid, as a list of dicts with a method for each usual question.

    Example:
        >>> info = FeatureInfo([{"num_chs": 64, "reduction": 2}, {"num_chs": 128, "reduction": 4}], (1,))
        >>> info.channels(), info.channels(0), info.reduction([0, 1]), len(info)
        ([128], 64, [2, 4], 2)

    Args:
        info: one dict for each level of the model, with ``num_chs``, ``reduction``, ``module``, ``index``, ``shape``
            (at the example's size, in the format that the pyramid returns) and ``why``.
        out_indices: the levels that the pyramid returns, in that order.

    Source: timm's ``FeatureInfo``.
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = [dict(level) for level in info]
        self.out_indices = tuple(out_indices)

    def get(self, key: str, idx: Index = None) -> Any:
        """Return one entry of the levels.

        Args:
            key: such as ``"num_chs"``.
            idx: a level's index for its entry alone, several for a list, None for the levels that are returned.
        """
        levels = self.get_dicts([key], idx)
        return levels[key] if isinstance(levels, dict) else [level[key] for level in levels]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: Index = None) -> Any:
        """Return levels as dicts of some keys, all if not given; ``idx`` as for ``get``."""
        if isinstance(idx, int):
            level = self.info[idx]
            return level if keys is None else {key: level[key] for key in keys}
        wanted = self.out_indices if idx is None else idx
        return [self.get_dicts(keys, index) for index in wanted]

    def channels(self, idx: Index = None) -> Any:
        """Return the number of channels; ``idx`` as for ``get``."""
        return self.get("num_chs", idx)

    def reduction(self, idx: Index = None) -> Any:
        """Return how many pixels one step on the level's grid is; ``idx`` as for ``get``.

        One number where all directions agree, else a tuple of one for each axis.
        """
        return self.get("reduction", idx)

    def module_name(self, idx: Index = None) -> Any:
        """Return the name of the module or operation; ``idx`` as for ``get``."""
        return self.get("module", idx)

    def __getitem__(self, item: Any) -> Any:
        return self.info[item]

    def __len__(self) -> int:
        return len(self.info)

    def __repr__(self) -> str:
        return f"FeatureInfo({self.info!r}, out_indices={self.out_indices!r})"
