"""Another classifier and another pooling for a model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from fxfeat.backbone.head_places import Place, check_unpooled, reset
from fxfeat.backbone.head_pooling import KINDS, Pooling
from fxfeat.backbone.ladder import image_tokens
from fxfeat.backbone.layers import Layer
from fxfeat.backbone.parts import Parts, explain_no_place, ladder_of, list_places, multiply, pooling_of, split_of
from fxfeat.errors import RequestError
from fxfeat.vision.integers import read_int

_FRESH = "classifier"
_SEVERAL = "several classifiers look at different values"


def reset_head(parts: Parts, num_classes: Any, global_pool: str | None) -> None:
    """Put fresh classifiers in the places of the old ones, and change the pooling.

    Raises:
        RequestError: where there is no such pooling, or no classifier fits behind it.
    """
    count = read_int(num_classes)
    if count is None or count < 0:
        raise RequestError(f"num_classes is {num_classes!r}; it must be the number of scores, or 0 for no classifier.")
    if parts.headless:
        raise RequestError("The head was pruned; call reset_classifier before prune_intermediate_layers.")
    pooling = _choose_pooling(parts, global_pool)
    places = list_places(parts) or _attach(parts, pooling, count)
    if pooling == "" and count > 0:
        check_unpooled(split_of(parts).shapes[0], split_of(parts).channels[0], places)
    multiple = multiply(parts, pooling)
    for place in places:
        width = round(place.layer.width * multiple)
        reset(parts.root, dataclasses.replace(place, layer=dataclasses.replace(place.layer, width=width)), count)
    parts.pooling = pooling


def _choose_pooling(parts: Parts, asked: Any) -> str | None:
    """Read what pooling is asked for: None for the model's own, ``""`` for none."""
    if asked is None:
        return parts.pooling
    if asked == "":
        return _check_none(parts)
    if asked not in KINDS:
        raise RequestError(f"global_pool is {asked!r}; {_list_kinds(parts)}")
    pooling = pooling_of(parts)
    if pooling is not None and asked == pooling.own:
        return None
    reason = _explain(pooling, asked) if len(list_places(parts)) < 2 else _SEVERAL
    if reason:
        raise RequestError(f"global_pool={asked!r} cannot be had: {reason}. {_list_kinds(parts)}")
    if pooling is not None and pooling.is_tokens and asked != "token":
        image_tokens(ladder_of(parts), torch.empty(pooling.features, device="meta"))
    return str(asked)


def _check_none(parts: Parts) -> str:
    pooling = pooling_of(parts)
    if len(list_places(parts)) > 1:
        raise RequestError(f"global_pool='' cannot be had: {_SEVERAL}. Use forward_features for the features.")
    if pooling is not None and not pooling.takes_places:
        raise RequestError(
            f"global_pool='' cannot be had: what comes behind the pooling does not work at each place of a map of "
            f"shape {pooling.features}. Use forward_features for the features."
        )
    return ""


def _explain(pooling: Pooling | None, asked: str) -> str:
    """Say why a pooling cannot stand in for the model's own; nothing where it can."""
    if pooling is None:
        return "no one value of the model is pooled"
    if pooling.is_learnt:
        return "weights go into the model's own pooling, which no other can stand in for"
    width = pooling.features[pooling.channels]
    multiple = 2 if pooling.own == "catavgmax" else 1
    if max(pooling.pooled[1:]) != width * multiple or math.prod(pooling.pooled[1:]) != width * multiple:
        return f"the model makes {pooling.pooled} of features of shape {pooling.features}, which is no pooling"
    if not pooling.is_last and (asked == "catavgmax") != (multiple == 2):
        return "there are layers behind the pooling that take another number of channels"
    if asked == "token" and not (pooling.is_tokens and pooling.has_class_token):
        return "the model has no class token"
    return "it is not known of sequences" if asked == "catavgmax" and pooling.is_tokens else ""


def _list_kinds(parts: Parts) -> str:
    pooling = pooling_of(parts)
    kinds = [kind for kind in KINDS if pooling is not None and not _explain(pooling, kind)]
    shown = "".join(f"{kind!r}, " for kind in kinds)
    alone = " alone" if len(list_places(parts)) > 1 else " or '' (no pooling)"
    return f"{type(parts.root).__name__} can have {shown}None (as it is){alone}."


def _attach(parts: Parts, pooling: str | None, count: int) -> tuple[Place, ...]:
    """Put a place for a classifier behind a model that has none."""
    split = split_of(parts)
    if split.places is None:
        raise RequestError(explain_no_place(parts))
    if count == 0:
        return ()
    if split.width is None and not pooling:
        raise RequestError(
            f"{type(parts.root).__name__} pools nothing, so a classifier needs a pooling: pass global_pool='avg'. "
            f"{_list_kinds(parts)}"
        )
    name = next(name for name in (_FRESH, *(f"{_FRESH}_{i}" for i in range(99))) if not hasattr(parts.root, name))
    width = split.width or split.shapes[0][split.channels[0]]
    parts.root.add_module(name, nn.Identity().train(parts.root.training))
    parts.attached = Place(name, name, Layer(nn.Linear, width, (("bias", True),)))
    return (parts.attached,)
