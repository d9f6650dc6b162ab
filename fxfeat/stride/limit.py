"""Limit the output stride of a model: strides past the limit become dilation downstream."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxfeat.codegen.extractor import FeatureExtractor
from fxfeat.errors import RequestError, TraceError
from fxfeat.stride.apply import apply_changes, check_result
from fxfeat.stride.image_flow import Flow, follow_image
from fxfeat.stride.recordings import record_windows
from fxfeat.trace.setup import Setup, read_setup


def limit_stride(model: nn.Module, output_stride: int, *, example_inputs: Any = None) -> nn.Module:
    """Copy a model so that none of its maps is coarser than a limit, with the same parameters.

    Convolutions and pools past the limit lose their stride, and what lies downstream of a removed stride is dilated by
    it. Parameters and buffers are shared with the model, under the same names.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1))
        >>> dense = limit_stride(model, 2)
        >>> dense[1:]
        Sequential(
          (1): Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
          (2): Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), padding=(2, 2), dilation=(2, 2))
        )
        >>> image = torch.rand(1, 3, 16, 16)
        >>> torch.equal(dense(image)[..., ::2, ::2], model(image))
        True

    Args:
        model: any module that takes images; it is not changed.
        output_stride: the coarsest reduction to keep, in pixels: one of those that the model has.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments; worked out from the
            model if not given.

    Returns:
        A module with the same ``forward`` and ``state_dict`` keys that shares the model's parameters.

    Raises:
        RequestError: where the model has no such reduction, or a node past the limit has no dense counterpart.
        TraceError: where the model cannot be recorded.

    Source: timm's ``output_stride``; Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation".
    """
    setup = read_setup(model, None, None, example_inputs)
    plain = follow_modes(setup, None)
    check_limit(setup.model, next(iter(plain.values())), output_stride)
    flows = follow_modes(setup, output_stride)
    changed = apply_changes(setup, flows)
    for flow in flows.values():
        check_result(changed, setup, flow)
    return changed


def follow_modes(setup: Setup, limit: int | None) -> dict[bool, Flow]:
    """Follow the image in eval mode and in train mode; one of them may be a mode that the model does not run in.

    Raises:
        RequestError: at a node behind a removed stride that has no dense counterpart.
        TraceError: where the model can be recorded in neither mode.
    """
    flows: dict[bool, Flow] = {}
    failures: list[TraceError] = []
    for training in (False, True):
        try:
            recording = record_windows(setup, training)
        except TraceError as error:
            failures.append(error)
            continue
        flows[training] = follow_image(recording, limit)
    if not flows:
        raise failures[0]
    return flows


def check_limit(model: nn.Module, flow: Flow, limit: int) -> None:
    """Check that a limit is one of a model's reductions.

    Raises:
        RequestError: where it is not.
    """
    reductions = flow.reductions
    name = model.original if isinstance(model, FeatureExtractor) else type(model).__name__
    if not reductions:
        raise RequestError(f"{name} has no convolution or pool that an image reaches, so there is no stride to limit.")
    if isinstance(limit, int) and (limit in reductions or (limit > reductions[-1] and limit % reductions[-1] == 0)):
        return
    shown = ", ".join(map(str, reductions))
    near = min(reductions, key=lambda r: (abs(r - limit), r)) if isinstance(limit, int) else reductions[-1]
    raise RequestError(
        f"output_stride={limit!r} is no reduction of {name}, whose convolutions and pools leave maps reduced by "
        f"{shown}. Pass one of these, for instance output_stride={near}."
    )
