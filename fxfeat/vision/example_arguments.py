"""An example, the way users give one."""

from __future__ import annotations

from typing import Any

from fxfeat.ir.example import Example


def as_example_inputs(example: Example) -> Any:
    """Return what ``example_inputs=`` takes for an example: its arguments, by name if any are given so.

    >>> as_example_inputs(Example((1, 2))), as_example_inputs(Example((), {"x": 1}))
    ((1, 2), {'x': 1})
    """
    return dict(example.kwargs) if example.kwargs else example.args
