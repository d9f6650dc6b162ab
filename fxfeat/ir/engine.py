"""How features are had: by code that is written out, or by hooks on modules that run whole."""

from __future__ import annotations

from typing import Any, Literal, get_args

from fxfeat.errors import RequestError

Engine = Literal["auto", "code", "tap"]
"""Write code and tap what cannot be written out, write code alone, or tap the whole model."""


def check_engine(engine: Any) -> Engine:
    """Return the engine asked for.

    Raises:
        RequestError: where there is none of that name.
    """
    if engine not in get_args(Engine):
        raise RequestError(f"engine is {engine!r}; it must be one of {', '.join(map(repr, get_args(Engine)))}.")
    chosen: Engine = engine
    return chosen
