"""Numbers the way people write them: plain ints, and those of NumPy and of tensors."""

from __future__ import annotations

import numbers
from typing import Any


def read_int(value: Any) -> int | None:
    """Return an integer of any kind as an int; None for anything else, True and False included.

    >>> import numpy
    >>> read_int(numpy.int64(3)), read_int(3.0), read_int(True)
    (3, None, None)
    """
    plain = to_plain(value)
    return int(plain) if isinstance(plain, numbers.Integral) and not isinstance(plain, bool) else None


def read_ints(value: Any) -> tuple[int, ...] | None:
    """Return several integers of any kind as ints; None for anything else.

    >>> import numpy
    >>> read_ints(numpy.array([1, 2])), read_ints(range(2)), read_ints("12"), read_ints(1)
    ((1, 2), (0, 1), None, None)
    """
    plain = to_plain(value)
    if not isinstance(plain, (tuple, list, range)):
        return None
    read = tuple(read_int(part) for part in plain)
    return None if None in read else tuple(part for part in read if part is not None)


def to_plain(value: Any) -> Any:
    """Turn what NumPy or torch holds into Python's own numbers and lists; leave anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value
