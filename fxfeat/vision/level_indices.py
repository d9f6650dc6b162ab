"""Which levels are asked for: the last few, or some by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fxfeat.errors import RequestError
from fxfeat.vision.integers import read_int, read_ints


@dataclass(frozen=True)
class Wording:
    """What an error says of the argument that asks for levels.

    Attributes:
        name: of the argument.
        kinds: what it may be.
        after_count: what follows where more levels are asked for than there are.
        after_index: what follows where there is no level of an index.
        empty: what is said where no level is asked for; the same as of a wrong type if None.
    """

    name: str
    kinds: str
    after_count: str
    after_index: str
    empty: str | None = None


def read_level_indices(given: Any, count: int, wording: Wording) -> tuple[int, ...]:
    """Read an int as the last so many levels, and several as indices, of which negative ones count from the end.

    >>> wording = Wording("indices", "an int or several", ".", ".")
    >>> read_level_indices(3, 12, wording), read_level_indices((0, -1), 4, wording)
    ((9, 10, 11), (0, 3))

    Returns:
        The indices from 0, in the order asked.

    Raises:
        RequestError: where there is no such level.
    """
    name, last = wording.name, read_int(given)
    if last is not None:
        if not 0 < last <= count:
            raise RequestError(f"{name}={last} asks for the last {last} levels{wording.after_count}")
        return tuple(range(count - last, count))
    indices = read_ints(given)
    if indices is None:
        raise RequestError(f"{name} is {given!r}; it must be {wording.kinds}.")
    if not indices:
        raise RequestError(wording.empty or f"{name} is {given!r}; it must be {wording.kinds}.")
    wrong = [index for index in indices if not -count <= index < count]
    if wrong:
        raise RequestError(f"{name}={indices} asks for level {wrong[0]}{wording.after_index}")
    return tuple(index % count for index in indices)
