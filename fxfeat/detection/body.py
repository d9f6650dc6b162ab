"""The part of a detector's backbone that is the model's own."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxfeat.api import extract_from
from fxfeat.detection.rehearsal import Rehearsal, rehearse
from fxfeat.detection.trainable import find_trainable, read_trainable_levels
from fxfeat.errors import RequestError, TraceError
from fxfeat.inputs.examples import bind
from fxfeat.ir.engine import Engine
from fxfeat.ir.example import Example
from fxfeat.pyramid import FeatureInfo, FeaturePyramid
from fxfeat.pyramid.features_only import Asked, cut_at_levels, describe_level, place_of
from fxfeat.pyramid.final_norm import find_final_norm
from fxfeat.pyramid.out_indices import read_out_indices
from fxfeat.pyramid.search import LevelSearch, search_levels
from fxfeat.trace.setup import Setup, read_setup
from fxfeat.vision.reduction import Reduction, coarsest

_GREATEST_STRIDE = 32


@dataclass(frozen=True)
class Body:
    """A model cut down to the maps that a detector uses.

    Attributes:
        pyramid: returns the maps, finest first; the one map of a flat model.
        strides: of the maps, in pixels; a pair for a map whose height and width are reduced by different factors.
        flat: whether the model works at one resolution, so that there is one map only.
        image: the image that it was recorded with.
        frozen: the names of the parameters that are not to be trained, or that no map depends on.
        sorted: whether the model keeps the places of a map in an order of its own, or brings its images to one size, so
            that its maps are known for this size of image alone.
    """

    pyramid: FeaturePyramid
    strides: tuple[Reduction, ...]
    flat: bool
    image: torch.Tensor
    frozen: frozenset[str]
    sorted: bool = False


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
    search = search_levels(setup)
    example = setup.examples[0]
    image = _find_image(setup.model, search, example)
    _check_dimensions(model, search)
    wanted = _choose_levels(search, request)
    pyramid = _cut(setup, search, wanted, request)
    used = _rehearse_training(pyramid, image).used
    if trainable_levels is not None:
        every = Asked(tuple(range(wanted[-1] + 1)), request.output_stride)
        whole = cut_at_levels(setup, search, every)
        used = (*_rehearse_training(whole, image).used[:-1], frozenset().union(*used))
    frozen = frozenset(name for name, _ in pyramid.named_parameters()) - find_trainable(used, trainable_levels)
    layouts = [search.levels[index].layout for index in wanted]
    is_sorted = any(layout.sorting is not None or layout.image is not None for layout in layouts)
    return Body(pyramid, tuple(pyramid.feature_info.reduction()), search.flat, image, frozen, is_sorted)


def _find_image(model: nn.Module, search: LevelSearch, example: Example) -> torch.Tensor:
    """Find the image among the arguments; nothing else may be needed."""
    parameters = inspect.signature(model.forward).parameters
    first, *others = parameters.values()
    given = bind(model, example).arguments.get(first.name)
    image = given[0] if first.kind is first.VAR_POSITIONAL and given else given
    needed = [p for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if isinstance(image, torch.Tensor) and _is_first(search.maps.image, first) and not needed:
        return image
    raise RequestError(
        f"A detector gives its backbone a tensor of images and nothing else, but {type(model).__name__}.forward "
        f"takes ({', '.join(parameters)}). Wrap the model in a module whose forward takes the images alone."
    )


def _is_first(image: fx.Node, first: inspect.Parameter) -> bool:
    """Say whether an image is what a parameter holds, or the first of what ``*args`` holds."""
    argument: Any = image
    if first.kind is first.VAR_POSITIONAL and image.args[1:] == (0,):
        argument = image.args[0]
    return argument.op == "placeholder" and str(argument.target).lstrip("*") == first.name


def _check_dimensions(model: nn.Module, search: LevelSearch) -> None:
    layout = search.levels[-1].layout
    if len(layout.grid) == 2:
        return
    raise RequestError(
        f"A detector needs maps of two dimensions, (N, C, H, W). Those of {type(model).__name__} have "
        f"{len(layout.grid)}: {search.levels[-1].module} is {layout.channels} channels on a grid of "
        f"{'x'.join(map(str, layout.grid))}. Pass a model of images; fxfeat.features_only gives the maps of this one."
    )


def _choose_levels(search: LevelSearch, request: Request) -> tuple[int, ...]:
    """Choose levels, finest first: those asked for, else those of usual strides, or the last block of a flat model."""
    levels, asked = search.levels, request.out_indices
    if search.flat:
        return _choose_block(search, request)
    if asked is not None:
        return tuple(sorted(set(read_out_indices(asked, levels, False))))
    usual = [level.index for level in levels if request.least_stride <= coarsest(level.reduction) <= _GREATEST_STRIDE]
    return tuple(usual or [level.index for level in levels])


def _choose_block(search: LevelSearch, request: Request) -> tuple[int, ...]:
    if request.output_stride is not None:
        raise RequestError(
            f"output_stride={request.output_stride} was asked of a model that works at one resolution; leave it out."
        )
    asked = (-1,) if request.out_indices is None else request.out_indices
    chosen = read_out_indices(asked, search.levels, True)
    if len(chosen) > 1:
        raise RequestError(
            f"out_indices={request.out_indices} asks for {len(chosen)} blocks of a model that works at one "
            "resolution; all levels are made from the map of one. Pass one block, such as out_indices=(-1,)."
        )
    return chosen


def _cut(setup: Setup, search: LevelSearch, wanted: tuple[int, ...], request: Request) -> FeaturePyramid:
    normed = find_final_norm(search) if search.flat and wanted[0] == len(search.levels) - 1 else None
    if normed is None:
        return cut_at_levels(setup, search, Asked(wanted, request.output_stride))
    extractor = extract_from(setup, {normed.name: str(wanted[0])})
    info = FeatureInfo([describe_level(level, search.maps.extent.batch, "NCHW") for level in search.levels], wanted)
    info[wanted[0]].update(module=normed.name, why=f"{info[wanted[0]]['why']}, after the final norm")
    place = place_of(setup.model, search.maps.image)
    return FeaturePyramid(extractor, info, {wanted[0]: normed.layout}, place)


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
