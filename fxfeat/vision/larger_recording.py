"""The same model recorded on a larger input, to see what follows the input's size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from fxfeat.errors import FxfeatError
from fxfeat.inputs.resized import Axis, Group, find_groups, resize
from fxfeat.ir.example import Example
from fxfeat.ir.recording import Recording
from fxfeat.trace.setup import Setup, record_variant


def find_image_axes(example: Example) -> tuple[Group, ...]:
    """Find the axes along which an example's images extend."""
    return tuple(group for group in find_groups(example) if group.name == "extent")


def find_length_axes(example: Example) -> tuple[Group, ...]:
    """Find the axes along which an example's sequences and signals may extend, for each place of such an axis."""
    return tuple(group for group in find_groups(example) if group.name.startswith("length"))


def enlarge(example: Example, groups: tuple[Group, ...], even: int, odd: int) -> Example:
    """Multiply the sizes of axes of even and of odd number, such as height and width.

    >>> import torch
    >>> example = Example((torch.zeros(1, 3, 8, 8),))
    >>> enlarge(example, find_image_axes(example), 3, 2).args[0].shape
    torch.Size([1, 3, 24, 16])
    """

    def grow(axis: Axis) -> int:
        return axis.size * (odd if axis.dimension % 2 else even)

    return resize(example, {axis: grow(axis) for group in groups for axis in group.axes})


def record_larger(
    setup: Setup,
    recording: Recording,
    examples: Iterable[Example],
    suits: Callable[[Recording], bool] = lambda larger: True,
) -> Recording | None:
    """Record a model on the first of some larger examples that it takes.

    Args:
        setup: the model and its example.
        recording: of the model at the example's size, in the mode to record in.
        examples: larger ones, likeliest to suit the model first.
        suits: says whether a recording will do.

    Returns:
        The recording; None where the model takes none of them.
    """
    recordings = (_try(setup, recording, example) for example in examples)
    return next((larger for larger in recordings if larger is not None and suits(larger)), None)


def _try(setup: Setup, recording: Recording, example: Example) -> Recording | None:
    with contextlib.suppress(FxfeatError):
        return record_variant(setup, recording, recording.training, example)
    return None
