"""Make an extractor faster for inference, step by step; a step that loses is undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fxfeat.codegen.emit import emit
from fxfeat.codegen.extractor import FeatureExtractor, build_extractor
from fxfeat.deploy.flat_extractor import copy_extractor, emit_flat, example_of, refuse_tapped
from fxfeat.deploy.inference_passes import Fold, drop_identities, fold_norms, fold_weights
from fxfeat.deploy.optimization import Optimization, Step
from fxfeat.deploy.timed_trial import time_in_turn
from fxfeat.eager.checked import describe
from fxfeat.errors import RequestError, TraceError
from fxfeat.inputs.examples import copy_example
from fxfeat.ir.emission import ModeVariants
from fxfeat.ir.example import Example
from fxfeat.ir.tree import map_parts, tensors
from fxfeat.passes.run_passes import rewrite

_FORMATS = ("auto", "channels_last", "contiguous")
_GAIN = 0.97
"""A memory format has to save as much to be worth that features come in another one."""
_LOSS = 1.02
_FARTHEST = 1e-3
_MAPS = 4
Run = Callable[[], Any]


def optimize(
    extractor: FeatureExtractor,
    example: Any,
    dtype: torch.dtype | None,
    memory_format: str,
    fold: bool,
    compile_mode: str | None,
) -> tuple[FeatureExtractor, Optimization]:
    """Make a faster extractor for inference.

    Raises:
        RequestError: for arguments that cannot be read.
        TraceError: where the extractor cannot be written out in full.
    """
    if memory_format not in _FORMATS:
        raise RequestError(f"memory_format is {memory_format!r}; it must be 'auto', 'channels_last' or 'contiguous'.")
    refuse_tapped(extractor)
    before = copy_extractor(extractor).eval()
    given = example_of(extractor, example)
    given_after = given if dtype is None else _cast(given, dtype)
    faster, steps = _write_faster(extractor, given_after, dtype, fold)
    seconds = _time(before, faster, given, given_after)
    if dtype is None and (seconds[1] > seconds[0] * _LOSS or _differ(before, faster, given) > _FARTHEST):
        why = f"{seconds[1] / seconds[0]:.2f} of the time"
        faster, steps = copy_extractor(extractor).eval(), [replace(step, kept=False, why=why) for step in steps]
    faster, step = _choose_format(faster, given_after, memory_format)
    steps.append(step)
    if compile_mode is not None:
        faster.compile(mode=compile_mode)
        steps.append(Step(f"compiled, mode={compile_mode!r}", True))
    after = _time(before, faster, given, given_after)
    differences = _compare(before, faster, given, given_after)
    return faster, Optimization(tuple(step for step in steps if step.what), after[0], after[1], differences)


# -- code --------------------------------------------------------------------------------------------------------------


def _write_faster(
    extractor: FeatureExtractor, example: Example, dtype: torch.dtype | None, fold: bool
) -> tuple[FeatureExtractor, list[Step]]:
    """Write a copy out in full, without what inference does not need."""
    own = copy_extractor(extractor).eval()
    if dtype is not None:
        own.to(dtype)
    checked = emit_flat(own, example)[1]
    modules = dict(own.named_modules(remove_duplicate=False))
    draft = rewrite(checked.draft)[0]
    nodes = len(draft.graph.nodes)
    draft = drop_identities(draft, modules)
    dropped = nodes - len(draft.graph.nodes)
    folds: list[Fold] = []
    if fold:
        draft, folds = fold_norms(draft, modules)
    emission = describe(emit(draft), draft.recording, checked.emission.freedoms, checked.emission.purity)
    with torch.no_grad():
        for each in folds:
            fold_weights(each)
    train = TraceError(f"This extractor of {extractor.original} was optimized for inference and has no train mode.")
    faster = build_extractor(ModeVariants(train, emission), own, own.tracer_kwargs, own.return_type)
    faster.original, faster.example = extractor.original, extractor.example
    return faster, [
        Step(f"in {dtype}" if dtype is not None else "", True),
        Step(f"{len(folds)} norms folded into the layers in front of them" if folds else "", True),
        Step(f"{dropped} identities and dropouts dropped" if dropped else "", True),
    ]


# -- memory format -----------------------------------------------------------------------------------------------------


def _choose_format(faster: FeatureExtractor, example: Example, wish: str) -> tuple[FeatureExtractor, Step]:
    """Try channels-last where there are maps; keep it where that was asked for, or where it wins."""
    if wish == "contiguous" or not any(parameter.dim() == _MAPS for parameter in faster.parameters()):
        return faster, Step("", True)
    turned: FeatureExtractor = copy_extractor(faster).to(memory_format=torch.channels_last)
    seconds = time_in_turn(_runner(faster, example), _runner(turned, example))
    ratio = f"{seconds[1] / seconds[0]:.2f} of the time"
    if wish == "auto" and seconds[1] > seconds[0] * _GAIN:
        return faster, Step("channels last", False, ratio)
    return turned, Step("channels last", True, ratio)


# -- trials ------------------------------------------------------------------------------------------------------------


def _cast(example: Example, dtype: torch.dtype) -> Example:
    def cast(part: Any) -> Any:
        return part.to(dtype) if isinstance(part, torch.Tensor) and part.is_floating_point() else part

    args, kwargs = map_parts((example.args, example.kwargs), cast)
    return Example(args, kwargs)


def _runner(module: nn.Module, example: Example) -> Run:
    def run() -> Any:
        with torch.no_grad():
            return module(*example.args, **example.kwargs)

    return run


def _time(before: nn.Module, after: nn.Module, given: Example, given_after: Example) -> list[float]:
    return time_in_turn(_runner(before, given), _runner(after, given_after))


def _differ(before: FeatureExtractor, after: FeatureExtractor, given: Example) -> float:
    return max(_compare(before, after, given, given).values(), default=0.0)


def _compare(
    before: FeatureExtractor, after: FeatureExtractor, given: Example, given_after: Example
) -> dict[str, float]:
    """Return max|a - b| / max|a| by key."""
    values = before.by_key(_runner(before, copy_example(given))())
    others = after.by_key(_runner(after, copy_example(given_after))())
    return {key: _distance(values[key], others[key]) for key in values}


def _distance(value: Any, other: Any) -> float:
    pairs = zip((one for _, one in tensors(value)), (one for _, one in tensors(other)), strict=True)
    return max((_relative(one.double(), two.double()) for one, two in pairs if not one.is_complex()), default=0.0)


def _relative(value: torch.Tensor, other: torch.Tensor) -> float:
    if not value.numel() or torch.equal(value, other):
        return 0.0
    return float((value - other).abs().max() / value.abs().max().clamp_min(torch.finfo(torch.double).tiny))
