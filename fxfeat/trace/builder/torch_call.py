"""One call of a torch function, as a mode is told of it."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TorchCall:
    """A torch function, the attribute that it stands for if it is a getter or setter, and the code that calls it."""

    function: Any
    name: str
    attribute: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    caller: types.FrameType
