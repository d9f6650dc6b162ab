"""What an extractor remembers of its example: shapes in the place of large values."""

from __future__ import annotations

import torch

from fxfeat.ir.example import Example
from fxfeat.ir.tree import map_parts

_MOST_VALUES = 1024


def sketch(example: Example) -> Example:
    """Put meta tensors in the place of images and the like; whole numbers, which may be indices, stay.

    >>> sketch(Example((torch.rand(1, 3, 32, 32), torch.tensor([2])))).args[0].device
    device(type='meta')
    """
    args, kwargs = map_parts((example.args, example.kwargs), _reduce)
    return Example(args, kwargs)


def draw(example: Example, device: torch.device) -> Example:
    """Fill a sketch with random numbers from 0 to 1; torch's random state stays as it was.

    >>> draw(sketch(Example((torch.rand(1, 3, 32, 32),))), torch.device("cpu")).args[0].shape
    torch.Size([1, 3, 32, 32])
    """

    def fill(part: object) -> object:
        if not isinstance(part, torch.Tensor):
            return part
        return torch.rand(part.shape, device=device).to(part.dtype) if part.is_meta else part.to(device)

    with torch.random.fork_rng(devices=[]):
        args, kwargs = map_parts((example.args, example.kwargs), fill)
    return Example(args, kwargs)


def _reduce(part: object) -> object:
    if not isinstance(part, torch.Tensor) or part.layout is not torch.strided or part.is_nested:
        return part
    if not part.is_floating_point() or part.numel() <= _MOST_VALUES:
        return part.detach().clone()
    return torch.empty_like(part, device="meta")
