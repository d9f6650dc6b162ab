"""See numbers that a model's code draws from Python or NumPy."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fxfeat.ir.node_meta import DRAWN
from fxfeat.isolation.random_state import outside_torch
from fxfeat.trace.builder.operands import write_arguments
from fxfeat.trace.builder.results import write_draw
from fxfeat.trace.builder.spelling import named
from fxfeat.trace.builder.trace import Effects, Trace
from fxfeat.trace.builder.unsupported import refuse
from fxfeat.trace.patches.replacement import Replacement
from fxfeat.trace.proxies.sequences import plain_parts
from fxfeat.trace.unobserved import unobserved

_DRAWING = (
    *("random", "uniform", "triangular", "betavariate", "expovariate", "gammavariate", "gauss", "lognormvariate"),
    *("normalvariate", "vonmisesvariate", "paretovariate", "weibullvariate", "randint", "randrange", "getrandbits"),
    *("rand", "randn", "random_sample", "normal", "standard_normal", "beta", "exponential", "gamma", "binomial"),
)


@dataclass
class PythonDraws:
    """What Python and NumPy draw from, as it was after the last draw that was written down.

    Reading that at every call of a module takes longer than the call, and hardly any model draws so. ``closely`` says
    to do it all the same; else it is read at the end, and ``unseen`` tells that the model is to be run again, closely.
    """

    closely: bool
    state: Any = field(default_factory=outside_torch)
    unseen: bool = False


def notice_draws(trace: Trace, draws: PythonDraws) -> None:
    """Refuse to write out code that drew from Python or NumPy what no draw of a number shows."""
    if draws.closely:
        _compare_draws(trace, draws)


def _compare_draws(trace: Trace, draws: PythonDraws) -> None:
    state = outside_torch()
    if state != draws.state and not draws.closely:
        draws.unseen = True
    elif state != draws.state and trace.calls.opened:
        refuse(trace, DRAWN)
    draws.state = state


def find_unseen(draws: PythonDraws) -> None:
    """Note at the end of a run whether it drew what no draw of a number shows."""
    draws.unseen |= not draws.closely and outside_torch() != draws.state


def note_draws(draws: PythonDraws, effects: Effects) -> None:
    """Note that a whole call drew from Python or NumPy."""
    if not draws.closely:
        return
    state = outside_torch()
    if state != draws.state:
        effects.note_draw()
    draws.state = state


def drawing(trace: Trace, draws: PythonDraws) -> Iterator[Replacement]:
    """Yield what writes down draws of numbers from Python and NumPy."""
    numpy = sys.modules.get("numpy")
    for home in (random, *((numpy.random,) if numpy is not None else ())):
        for name in _DRAWING:
            if hasattr(home, name):
                function = named(getattr(home, name), name, home.__name__)
                yield home, name, functools.partial(_draw, trace, draws, function)


def _draw(trace: Trace, draws: PythonDraws, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Draw a number from Python or NumPy, and write that down."""
    if not trace.calls.live_here:
        return function(*args, **kwargs)
    _compare_draws(trace, draws)
    number = function(*plain_parts(args), **plain_parts(kwargs))
    if type(number) not in (int, float):
        return number
    draws.state = outside_torch()
    with unobserved():
        return write_draw(trace, function, *write_arguments(trace, args, kwargs), number)
