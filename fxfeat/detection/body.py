"""The part of a detector's backbone that is the model's own."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxfeat.api import create_feature_extractor
from fxfeat.detection.final_norm import find_final_norm
from fxfeat.detection.rehearsal import Rehearsal, rehearse
from fxfeat.detection.token_places import find_order
from fxfeat.detection.trainable import find_trainable, read_trainable_levels
from fxfeat.errors import RequestError, TraceError
from fxfeat.inputs.examples import bind
from fxfeat.ir.engine import Engine
from fxfeat.ir.example import Example
from fxfeat.pyramid import FeatureInfo, FeaturePyramid, features_only
from fxfeat.pyramid.layout import Order
from fxfeat.pyramid.levels import Level
from fxfeat.pyramid.out_indices import read_out_indices
from fxfeat.pyramid.search import Found, search_levels
from fxfeat.trace.setup import read_setup

_GREATEST_STRIDE = 32


@dataclass(frozen=True)
class Body:
    """A model cut down to the maps that a detector uses.

    Attributes:
        pyramid: returns the maps, finest first; the one map of a flat model.
        strides: of the maps, in pixels.
        flat: whether the model works at one resolution, so that there is one map only.
        image: the image that it was recorded with.
        frozen: the names of the parameters that are not to be trained, or that no map depends on.
        orders: for each map whose places the model keeps in another order than the image's rows, the order that makes
            it a map; the pyramid then returns tokens.
    """

    pyramid: FeaturePyramid
    strides: tuple[int, ...]
    flat: bool
    image: torch.Tensor
    frozen: frozenset[str]
    orders: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Request:
    """What is asked of the body: see ``fpn_backbone``."""

    out_indices: int | Sequence[int] | None
    least_stride: int
    trainable_levels: int | None
    output_stride: int | None
    engine: Engine = "auto"


def find_body(model: nn.Module, request: Request, example_inputs: Any) -> Body:
    """Find the levels that a detector uses, and cut the model down to them.

    Raises:
        RequestError: for levels that there are not, or maps that are not of two dimensions.
        TraceError: for a model that has no levels or cannot be recorded.
    """
    trainable_levels = read_trainable_levels(request.trainable_levels)
    setup = read_setup(model, None, None, example_inputs, request.engine)
    found = search_levels(setup)
    example = setup.examples[0]
    image = _find_image(setup.model, found, example)
    _check_dimensions(model, found)
    wanted = _choose_levels(found, request)
    shuffled = any(found.levels[index].layout.shuffled for index in wanted)
    orders = tuple(find_order(found, found.levels[index]) for index in wanted) if shuffled else ()
    output_fmt: Order = "NLC" if shuffled else "NCHW"
    pyramid = _cut(setup.model, found, wanted, request, example, output_fmt)
    used = list(_rehearse_training(pyramid, image).used)
    if trainable_levels is not None:
        every = tuple(range(wanted[-1] + 1))
        inputs = _as_inputs(example)
        whole = features_only(
            setup.model, every, request.output_stride, output_fmt, example_inputs=inputs, engine=request.engine
        )
        used = [*_rehearse_training(whole, image).used[:-1], frozenset().union(*used)]
    trained = find_trainable(used, trainable_levels)
    frozen = frozenset(name for name, _ in pyramid.named_parameters()) - trained
    return Body(pyramid, tuple(pyramid.feature_info.reduction()), found.flat, image, frozen, orders)


def _find_image(model: nn.Module, found: Found, example: Example) -> torch.Tensor:
    """Find the image among the arguments; nothing else may be needed."""
    name = str(found.maps.image.target)
    parameters = inspect.signature(model.forward).parameters
    held = bind(model, example).arguments.get(name.lstrip("*"))
    needed = [
        p.name for p in parameters.values() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if (
        not isinstance(held, torch.Tensor)
        or [other for other in needed if other != name]
        or next(iter(parameters)) != name
    ):
        raise RequestError(
            f"A detector gives its backbone a tensor of images and nothing else, but {type(model).__name__}.forward "
            f"takes ({', '.join(parameters)}). Wrap the model in a module whose forward takes the images alone."
        )
    return held


def _check_dimensions(model: nn.Module, found: Found) -> None:
    layout = found.levels[-1].layout
    if len(layout.grid) == 2:
        return
    raise RequestError(
        f"A detector needs maps of two dimensions, (N, C, H, W). Those of {type(model).__name__} have "
        f"{len(layout.grid)}: {found.levels[-1].module} is {layout.channels} channels on a grid of "
        f"{'x'.join(map(str, layout.grid))}. Pass a model of images; fxfeat.features_only gives the maps of this one."
    )


def _choose_levels(found: Found, request: Request) -> tuple[int, ...]:
    """Choose levels, finest first: those asked for, else those of usual strides, or the last block of a flat model."""
    levels, asked = found.levels, request.out_indices
    if found.flat:
        return _choose_block(found, request)
    if asked is not None:
        return tuple(sorted(set(read_out_indices(asked if isinstance(asked, int) else tuple(asked), levels, False))))
    usual = [held.index for held in levels if request.least_stride <= held.reduction <= _GREATEST_STRIDE]
    return tuple(usual or [held.index for held in levels])


def _choose_block(found: Found, request: Request) -> tuple[int, ...]:
    if request.output_stride is not None:
        raise RequestError(
            f"output_stride={request.output_stride} was asked of a model that works at one resolution; leave it out."
        )
    asked = -1 if request.out_indices is None else request.out_indices
    held = (asked,) if request.out_indices is None else asked
    chosen = read_out_indices(held if isinstance(held, int) else tuple(held), found.levels, True)
    if len(chosen) > 1:
        raise RequestError(
            f"out_indices={request.out_indices} asks for {len(chosen)} blocks of a model that works at one "
            "resolution; all levels are made from the map of one. Pass one block, such as out_indices=(-1,)."
        )
    return chosen


def _cut(
    model: nn.Module,
    found: Found,
    wanted: tuple[int, ...],
    request: Request,
    example: Example,
    output_fmt: Order,
) -> FeaturePyramid:
    normed = find_final_norm(found) if found.flat and wanted[0] == len(found.levels) - 1 else None
    if normed is None:
        inputs = _as_inputs(example)
        return features_only(
            model, wanted, request.output_stride, output_fmt, example_inputs=inputs, engine=request.engine
        )
    name = {normed.name: str(wanted[0])}
    extractor = create_feature_extractor(model, name, example_inputs=_as_inputs(example), engine=request.engine)
    info = FeatureInfo([_describe(level, found.maps.extent.batch) for level in found.levels], wanted)
    info[wanted[0]].update(module=normed.name, why=f"{info[wanted[0]]['why']}, after the final norm")
    return FeaturePyramid(extractor, info, {wanted[0]: normed.layout}, (0, str(found.maps.image.target)), output_fmt)


def _describe(level: Level, batch: int) -> dict[str, Any]:
    return {
        "num_chs": level.layout.channels,
        "reduction": level.reduction,
        "module": level.module,
        "index": level.index,
        "shape": (batch, level.layout.channels, *level.layout.grid),
        "why": level.why,
    }


def _as_inputs(example: Example) -> Any:
    return example.args if not example.kwargs else example.kwargs


def _rehearse_training(pyramid: FeaturePyramid, image: torch.Tensor) -> Rehearsal:
    """Find what each map depends on in train mode, or in eval mode where the model does not run in train mode.

    Raises:
        TraceError: where it runs in neither.
    """
    failure: Exception | None = None
    for training in (True, False):
        try:
            return rehearse(pyramid, image, training=training, gradients=True)
        except Exception as error:
            failure = error
    raise TraceError(
        f"The maps could not be computed and differentiated: {type(failure).__name__}: {failure}"
    ) from failure
