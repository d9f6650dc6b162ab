"""What is copied out of a module that runs whole."""

from __future__ import annotations

from dataclasses import dataclass

from fxfeat.ir.tree import Steps


@dataclass(frozen=True)
class Tap:
    """One value to copy at the moment it is produced.

    ``path`` leads from the module that runs whole to the module that returns the value, or whose own code calls the
    torch function ``function``. ``call`` is the number of that module's call, counted from the start of the run; None
    stands for its last, and ``every`` for a list with a value for each of its calls. ``number`` counts the calls of
    functions of that name before it, in the same code of the same module call, and ``total`` all of them. ``steps``
    lead on from what is returned, or, as ``is_input`` says, from the pair of positional and keyword arguments.
    """

    name: str
    path: str
    call: int | None
    steps: Steps = ()
    function: str = ""
    number: int = 0
    total: int = 0
    is_input: bool = False
    every: bool = False


@dataclass(frozen=True)
class TappedCall:
    """One call of a module that runs whole, and what is copied out of it.

    ``key`` is what emitted code calls it by: the module's path, with ``@k`` for a later call. ``stops`` says that
    nothing behind the last value is needed. ``used`` are the paths, from this module, of the modules whose tensors the
    run uses.
    """

    key: str
    path: str
    reason: str
    taps: tuple[Tap, ...]
    stops: bool
    used: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TappedModule:
    """A module that an extractor runs whole, and why; unpacks into the two.

    >>> path, reason = TappedModule("encoder", "random numbers are drawn from Python or NumPy")
    >>> path
    'encoder'
    """

    path: str
    reason: str

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.path, self.reason))
