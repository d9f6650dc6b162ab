"""The errors fxfeat raises, each of which says what was asked, what is true and what to type."""


class FxfeatError(Exception):
    """Anything that fxfeat refuses or cannot do."""


class NodeNotFoundError(FxfeatError, ValueError):
    """A requested name that the model does not have, or has in one mode only."""


class RequestError(FxfeatError, ValueError):
    """A request that contradicts itself: two names for one key, no name at all, a wrong type."""


class TraceError(FxfeatError, RuntimeError):
    """A model that could not be recorded, or a recorded step that cannot be written down.

    ``path`` is the module whose code is at fault, where that is known, and ``reason`` says what it does.
    """

    def __init__(self, message: str = "", path: str | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason or message


UNSEEN_STATE = "its code does something else each time it is run on the same input"
"""The reason where code keeps state that nobody sees: such a module is never stopped on the way."""


class GuardError(FxfeatError, RuntimeError):
    """An input that would have taken another branch than the one that was recorded."""
