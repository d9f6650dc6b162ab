"""Put something in the place of what a class or a module holds, for a while."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

_NOTHING = object()


def patch(undo: ExitStack, home: Any, name: str, replacement: Any) -> None:
    """Replace an attribute until ``undo`` is closed, an inherited one by one of its own.

    A recording does this a hundred times, where ``unittest.mock.patch.object`` takes an eighth of its time.

    Example:
        >>> with ExitStack() as undo:
        ...     patch(undo, Any, "origin", 1)
        ...     Any.origin
        1
        >>> hasattr(Any, "origin")
        False
    """
    own = vars(home).get(name, _NOTHING)
    setattr(home, name, replacement)
    if own is _NOTHING:
        undo.callback(delattr, home, name)
    else:
        undo.callback(setattr, home, name, own)
