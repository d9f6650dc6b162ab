"""A pyramid of feature maps from any model."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from fxfeat.api import create_feature_extractor, extract_from
from fxfeat.codegen.containers import plant
from fxfeat.codegen.extractor import FeatureExtractor
from fxfeat.errors import RequestError
from fxfeat.ir.emission import UsedState
from fxfeat.ir.engine import Engine
from fxfeat.pyramid.feature_info import FeatureInfo
from fxfeat.pyramid.final_norm import check_norm, find_norm_path
from fxfeat.pyramid.formats import check_format
from fxfeat.pyramid.levels import Level
from fxfeat.pyramid.out_indices import read_out_indices, read_strides
from fxfeat.pyramid.pyramid import FeaturePyramid
from fxfeat.pyramid.search import LevelSearch, search_levels
from fxfeat.stride import limit_stride
from fxfeat.trace.setup import Setup, read_setup
from fxfeat.vision.example_arguments import as_example_inputs
from fxfeat.vision.integers import read_int
from fxfeat.vision.layout import Order
from fxfeat.vision.reduction import coarsest, join_axes, split_axes


def features_only(
    model: nn.Module,
    out_indices: int | tuple[int, ...] | list[int] | None = None,
    output_stride: int | None = None,
    output_fmt: Order = "NCHW",
    return_dict: bool = False,
    *,
    strides: int | Sequence[int | tuple[int, ...]] | None = None,
    norm: bool = False,
    feature_cls: str | None = None,
    example_inputs: Any = None,
    engine: Engine = "auto",
) -> FeaturePyramid:
    """Cut a model down to a module that returns its feature maps.

    Example:
        >>> import torch, torchvision
        >>> pyramid = features_only(torchvision.models.resnet18(), example_inputs=torch.rand(1, 3, 64, 64))
        >>> pyramid.feature_info.channels(), pyramid.feature_info.reduction()
        ([64, 64, 128, 256, 512], [2, 4, 8, 16, 32])
        >>> [tuple(level.shape) for level in pyramid(torch.rand(1, 3, 64, 64))][-2:]
        [(1, 256, 4, 4), (1, 512, 2, 2)]

    Args:
        model: any module that takes an image ``(N, C, H, W)``, a volume or a signal; it is not changed, and the
            pyramid shares its parameters.
        out_indices: the levels to return: an int for the last n, or indices in the order wanted, negative ones from
            the end. By default those of reduction 2 to 32 of a model that lowers the resolution step by step, and the
            last three blocks of one that does not.
        output_stride: the largest reduction wanted; strides past it become dilations. 8, 16 or 32. The model is cut
            first, so that only what the levels need has to allow for it.
        output_fmt: ``NCHW``, ``NHWC`` or ``NLC``, in whatever layout the model works.
        return_dict: return a dict by the levels' indices, as strings, instead of a list.
        strides: the reductions wanted, such as ``(4, 8, 16, 32)``, in place of ``out_indices``: the last level of each.
        norm: apply the model's final norm to each map: to any block of a flat model, to the last level of others.
        feature_cls: timm's word for the same as ``return_dict``: ``"dict"`` or ``"list"``.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments; worked out from the
            model if not given.
        engine: as for ``create_feature_extractor``.

    Returns:
        The pyramid; ``feature_info`` tells of its levels, and ``feature_info[i]["why"]`` why each was chosen.

    Raises:
        RequestError: for levels or a format that there is not, or a norm that does not fit.
        TraceError: for a model that has no levels or cannot be recorded.

    Source: timm's ``create_model(..., features_only=True)``.
    """
    check_format(output_fmt)
    asked = Asked(out_indices, read_output_stride(output_stride), strides, norm)
    return_dict = read_return_dict(return_dict, feature_cls)
    setup = read_setup(model, None, None, example_inputs, engine)
    return cut_at_levels(setup, search_levels(setup), asked, output_fmt, return_dict)


@dataclass(frozen=True)
class Asked:
    """Which levels are asked for, and how they are to be: the arguments of ``features_only``."""

    out_indices: int | Sequence[int] | None = None
    output_stride: int | None = None
    strides: int | Sequence[int | tuple[int, ...]] | None = None
    norm: bool = False


def cut_at_levels(
    setup: Setup, search: LevelSearch, asked: Asked, output_fmt: Order = "NCHW", return_dict: bool = False
) -> FeaturePyramid:
    """Cut a model down to levels that were found in it.

    Args:
        setup: the model.
        search: its levels.
        asked: which of them.
        output_fmt: the format of the maps.
        return_dict: return a dict by the levels' indices.

    Raises:
        RequestError: for levels that there are not, or a norm that does not fit.
        TraceError: for a model that cannot be recorded.
    """
    levels, limit = search.levels, asked.output_stride
    if limit == coarsest(levels[-1].reduction):
        limit = None
    if limit is not None:
        levels = tuple(limit_level(level, limit) for level in levels)
    wanted = _read_wanted(asked.out_indices, asked.strides, levels, search.flat)
    extractor = extract_from(setup, {levels[index].module: str(index) for index in sorted(set(wanted))})
    if limit is not None:
        extractor = _limit(extractor, limit, as_example_inputs(setup.examples[0]), setup.engine)
    normed = _find_norm(search, wanted) if asked.norm else None
    if normed is not None:
        plant(extractor, setup.model, UsedState(frozenset((normed,)), frozenset()), {})
    info = FeatureInfo([describe_level(level, search.maps.extent.batch, output_fmt) for level in levels], wanted)
    layouts = {index: levels[index].layout for index in wanted}
    place = place_of(setup.model, search.maps.image)
    return FeaturePyramid(extractor, info, layouts, place, output_fmt, return_dict, normed)


def _limit(cut: FeatureExtractor, output_stride: int, example: Any, engine: Engine) -> FeatureExtractor:
    """Limit the strides of what is left of a model, and extract the same again."""
    limited = limit_stride(cut, output_stride, example_inputs=example)
    names = {f"output[{row.key!r}]": row.key for row in cut.rows}
    extractor = create_feature_extractor(limited, names, example_inputs=example, engine=engine)
    extractor.original, extractor.parameters_before = cut.original, cut.parameters_before
    return extractor


def read_output_stride(output_stride: Any) -> int | None:
    """Read the largest reduction wanted.

    Raises:
        RequestError: for anything but a whole number above 0.
    """
    whole = read_int(output_stride)
    if output_stride is not None and (whole is None or whole < 1):
        raise RequestError(f"output_stride is {output_stride!r}; it must be an int above 0, such as 8, 16 or 32.")
    return whole


def read_return_dict(return_dict: bool, feature_cls: Any) -> bool:
    """Read timm's word for what a pyramid returns.

    >>> read_return_dict(False, "dict")
    True

    Raises:
        RequestError: for any but ``"dict"`` and ``"list"``, and for one that contradicts ``return_dict``.
    """
    if feature_cls is None:
        return return_dict
    if feature_cls not in ("dict", "list"):
        raise RequestError(f"feature_cls is {feature_cls!r}; it must be 'dict' or 'list'.")
    if return_dict and feature_cls == "list":
        raise RequestError("feature_cls='list' and return_dict=True contradict each other; pass one of them.")
    return bool(feature_cls == "dict")


def _find_norm(search: LevelSearch, wanted: tuple[int, ...]) -> str:
    name = type(search.recording.root).__name__
    return check_norm(find_norm_path(search), wanted, len(search.levels) - 1, search.flat, name)


def _read_wanted(out_indices: Any, strides: Any, levels: tuple[Level, ...], flat: bool) -> tuple[int, ...]:
    if strides is None:
        return read_out_indices(out_indices, levels, flat)
    if out_indices is not None:
        raise RequestError("Pass out_indices= or strides=, not both: each chooses the levels.")
    return read_strides(strides, levels)


def limit_level(level: Level, output_stride: int) -> Level:
    """Describe a level of a model whose strides were limited."""
    steps = split_axes(level.reduction, len(level.layout.grid))
    factors = [max(1, step // output_stride) for step in steps]
    grid = tuple(size * factor for size, factor in zip(level.layout.grid, factors, strict=True))
    scale = tuple(size / factor for size, factor in zip(level.layout.scale, factors, strict=True))
    reduction = join_axes([step // factor for step, factor in zip(steps, factors, strict=True)])
    return replace(level, reduction=reduction, layout=replace(level.layout, grid=grid, scale=scale))


def place_of(model: nn.Module, image: fx.Node) -> tuple[int, str, tuple[Any, ...]]:
    """Say which argument of ``forward`` holds the image: its position, its name, and the keys that lead to it there."""
    argument, keys = image, list[Any]()
    while argument.op != "placeholder":
        if argument.target is operator.getitem:
            keys.insert(0, argument.args[1])
        argument = next(iter(argument.all_input_nodes))
    name = str(argument.target).lstrip("*")
    names = list(inspect.signature(model.forward).parameters)
    return (names.index(name) if name in names else 0), name, tuple(keys)


def describe_level(level: Level, batch: int, output_fmt: Order) -> dict[str, Any]:
    """Write down what ``feature_info`` tells of a level, with its shape for a batch in a format."""
    layout = level.layout
    shapes: dict[Order, tuple[int, ...]] = {
        "NCHW": (batch, layout.channels, *layout.grid),
        "NHWC": (batch, *layout.grid, layout.channels),
        "NLC": (batch, layout.places, layout.channels),
    }
    return {
        "num_chs": layout.channels,
        "reduction": level.reduction,
        "module": level.module,
        "index": level.index,
        "shape": shapes[output_fmt],
        "why": level.why,
    }
