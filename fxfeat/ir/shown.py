"""What is shown to people knows that it is, and not how: ``fxfeat/report`` does, and is loaded when somebody looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Renderer(Protocol):
    """What shows things."""

    def render(self, shown: Any, /) -> Any:
        """Return what rich prints."""

    def describe(self, shown: Any, /) -> str:
        """Return plain text."""


class Shown:
    """Something that ``rich.print`` shows as the renderer does."""

    def __rich__(self) -> Any:
        return _load[0]().render(self)


def describe(shown: Shown) -> str:
    """Say in plain text what rich would show."""
    return _load[0]().describe(shown)


def show_by(load: Callable[[], Renderer]) -> None:
    """Take what shows things from this function."""
    _load[:] = [load]


_load: list[Callable[[], Renderer]] = []
