"""Compare an extractor with eager PyTorch: forward hooks that look at what a module returns when it does."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fxfeat.codegen.extractor import FeatureExtractor
from fxfeat.eager.observe import Observation, is_operation, lend, observe, observe_by_counting
from fxfeat.eager.purity import is_pure
from fxfeat.errors import RequestError
from fxfeat.inputs.examples import copy_example, other_values, read_call
from fxfeat.ir.emission import Row
from fxfeat.ir.equality import is_equal, to_dense
from fxfeat.ir.example import Example
from fxfeat.ir.shown import Shown, describe
from fxfeat.ir.tree import copy_tensors, tensors, walk
from fxfeat.isolation.entry_points import entered_by
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.preserved import copy_values, preserved, preserved_attributes, preserved_functions, restore_values
from fxfeat.isolation.random_state import read_random, restore_random
from fxfeat.isolation.unwrap import unwrap
from fxfeat.trace.leaves import choose_leaves

_LARGE = 8192


@dataclass(frozen=True)
class VerifiedRow:
    """How one feature compares: bit for bit, and by the largest absolute difference."""

    key: str
    name: str
    shape: Any
    dtype: Any
    equal: bool
    max_abs_diff: float | None
    note: str = ""


@dataclass(frozen=True)
class Verification(Shown):
    """The comparison of an extractor with hooks on the original model; prints as a table."""

    rows: tuple[VerifiedRow, ...]

    @property
    def ok(self) -> bool:
        """Whether every feature is equal bit for bit."""
        return all(row.equal for row in self.rows)

    @property
    def max_abs_diff(self) -> dict[str, float | None]:
        """The largest absolute difference of each key; None where shapes or kinds differ."""
        return {row.key: row.max_abs_diff for row in self.rows}

    def __str__(self) -> str:
        return describe(self)


def verify(model: nn.Module, extractor: FeatureExtractor, *args: Any, **kwargs: Any) -> Verification:
    """Run an extractor, and its model with hooks on the same input, and compare every feature bit for bit.

    The model runs in the extractor's mode, with the same random state, and comes back as it was: so do buffers that
    either run updates. Both run on other values of the same sizes too, unless one of them refuses those.

    Example:
        >>> import fxfeat
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True))
        >>> extractor = fxfeat.create_feature_extractor(model, ["0"])
        >>> verify(model, extractor, torch.randn(2, 4)).ok
        True

    Args:
        model: the model that the extractor was made from.
        extractor: what ``create_feature_extractor`` returned.
        *args: positional arguments for both, or one tuple or mapping of all, as ``example_inputs`` takes it.
        **kwargs: keyword arguments for both.

    Returns:
        A ``Verification`` with ``.ok``, ``.max_abs_diff`` by key and one row per feature.

    Raises:
        RequestError: where ``extractor`` is no ``FeatureExtractor``.
        GuardError: where the input takes another path than the recorded one.
    """
    if not isinstance(extractor, FeatureExtractor):
        raise RequestError(f"extractor is a {type(extractor).__name__}; pass what create_feature_extractor returned.")
    example = read_call(inspect.signature(extractor.forward), args, kwargs)
    if extractor.retracing is not None:
        with preserved(model):
            trial = copy_example(example)
            extractor = extractor.variant_for(*trial.args, **trial.kwargs)
    compared = _compare_on(model, extractor, example)
    try:
        on_others = _compare_on(model, extractor, other_values(example))
    except Exception:
        on_others = {}  # values that one of the two refuses, as a probability above one
    return Verification(tuple(_join(row, compared, on_others) for row in extractor.rows))


def _join(row: Row, compared: dict[str, VerifiedRow], on_others: dict[str, VerifiedRow]) -> VerifiedRow:
    """Tell how a feature compares on the input given; on other values, where it is only then not equal."""
    given, other = compared.get(row.key) or _missing(row), on_others.get(row.key)
    if other is None or other.equal or not given.equal:
        return given
    return replace(given, equal=False, max_abs_diff=other.max_abs_diff, note=other.note or "on other values")


def _compare_on(model: nn.Module, extractor: FeatureExtractor, example: Example) -> dict[str, VerifiedRow]:
    random = read_random()
    leaves = choose_leaves(extractor.tracer_kwargs, extractor.emission.leaves_opened)
    training = None if extractor.is_mixed else extractor.training
    purity = extractor.emission.purity
    if purity is not None and not is_pure(model, purity, example, training):
        purity = None
    replacements = extractor.emission.replacements
    observation = Observation(extractor.rows, leaves, example, training, purity is not None, replacements)
    compared: dict[str, VerifiedRow] = {}

    def compare(row: Row, value: Any) -> None:
        compared[row.key] = _compare(row, value, actual[row.key])

    state = preserved(model) if purity is None else preserved_attributes(model, purity.changing)
    parameters = copy_values(model.parameters() if extractor.emission.writes_parameters else ())
    with ExitStack() as undo:
        undo.callback(restore_values, parameters)
        before = undo.enter_context(state)
        undo.enter_context(preserved_functions(each.function for each in replacements))

        def start_over() -> None:
            before.restore()
            restore_values(parameters)
            restore_random(random)

        given, named = copy_tensors((example.args, example.kwargs))
        if purity is None and training is not None:
            set_mode(model, training)  # the extractor asks for the modes that its code was written in
        with lend(extractor, before, observation):
            actual = extractor.by_key(extractor(*given, **named))
        start_over()
        # What the model computes is compared at once: later code may write to it, and copies take memory and time.
        undo.enter_context(entered_by(unwrap(model), extractor.forms.method))
        observe_by_counting(model, before, observation, compare)
        unsure = [row for row in extractor.rows if is_operation(row) and not _is_equal_in(compared, row)]
        if unsure:
            start_over()
            observe(model, before, observation.only(unsure), compare)
    return compared


def _is_equal_in(compared: dict[str, VerifiedRow], row: Row) -> bool:
    return row.key in compared and compared[row.key].equal


def _missing(row: Row) -> VerifiedRow:
    return VerifiedRow(row.key, row.name, row.shape, row.dtype, False, None, "did not run in the model")


def _compare(row: Row, expected: Any, actual: Any) -> VerifiedRow:
    if isinstance(actual, torch.Tensor) and _is_same(expected, actual):
        return VerifiedRow(row.key, row.name, tuple(actual.shape), actual.dtype, True, 0.0)
    left, right = _tensors_of(expected), _tensors_of(actual)
    shape, dtype = (tuple(right[0].shape), right[0].dtype) if len(right) == 1 else (row.shape, row.dtype)
    if [tensor.shape for tensor in left] != [tensor.shape for tensor in right]:
        return VerifiedRow(row.key, row.name, shape, dtype, False, None, "shapes differ from the model's")
    if [tensor.dtype for tensor in left] != [tensor.dtype for tensor in right]:
        return VerifiedRow(row.key, row.name, shape, dtype, False, None, "dtypes differ from the model's")
    if _plain_parts(expected) != _plain_parts(actual):
        return VerifiedRow(row.key, row.name, shape, dtype, False, None, "keys or numbers differ from the model's")
    unequal = [(a, b) for a, b in zip(left, right, strict=True) if not is_equal(a, b)]
    worst = max((_difference(a, b) for a, b in unequal), default=0.0)
    return VerifiedRow(row.key, row.name, shape, dtype, not unequal, worst)


def _tensors_of(value: Any) -> list[torch.Tensor]:
    parts = [value] if isinstance(value, torch.Tensor) else [tensor for _, tensor in tensors(value)]
    rows = (part for tensor in parts for part in (tensor.unbind() if tensor.is_nested else (tensor,)))
    return list(map(to_dense, rows))


def _plain_parts(value: Any) -> list[tuple[Any, str]]:
    """List where in a value tensors are, and what else it holds."""
    literals = (bool, int, float, complex, str, type(None))
    parts = [(steps, part) for steps, part in walk(value) if isinstance(part, (torch.Tensor, *literals))]
    return [(steps, "a tensor" if isinstance(part, torch.Tensor) else repr(part)) for steps, part in parts]


def _is_same(left: Any, right: torch.Tensor) -> bool:
    if not isinstance(left, torch.Tensor) or left.dtype != right.dtype:
        return False
    if left.is_nested or right.is_nested or left.layout != torch.strided or right.layout != torch.strided:
        return False
    return _has_same_bytes(left, right) or is_equal(left, right)


def _has_same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Say whether large tensors are the same, by eight bytes at a time: twice as fast as by their elements."""
    if left.numel() < _LARGE or left.shape != right.shape or left.numel() * left.element_size() % 8:
        return False
    if not all(
        tensor.is_floating_point() and tensor.is_contiguous() and not tensor.is_neg() for tensor in (left, right)
    ):
        return False
    return torch.equal(left.view(-1).view(torch.int64), right.view(-1).view(torch.int64))


def _difference(left: torch.Tensor, right: torch.Tensor) -> float:
    wide = torch.complex128 if left.is_complex() else torch.float64
    return float((left.detach().to(wide) - right.detach().to(wide)).abs().max())
