"""Results on meta tensors that are remembered are those that running gives, with the same effects."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import fxfeat
from fxfeat.ir.node_meta import meta_of
from fxfeat.trace.builder import function_memo, leaf_memo
from fxfeat.trace.setup import read_setup, record_mode
from tests.oracle import assert_equals_eager

LEAVES: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Conv2d(3, 4, 3, stride=2), (2, 3, 9, 8)),
    (lambda: nn.ConvTranspose2d(3, 4, 3), (2, 3, 9, 8)),
    (lambda: nn.BatchNorm2d(3), (2, 3, 9, 8)),
    (lambda: nn.BatchNorm2d(3, track_running_stats=False), (2, 3, 9, 8)),
    (lambda: nn.LayerNorm(8), (2, 3, 9, 8)),
    (lambda: nn.ReLU(inplace=True), (2, 3, 9, 8)),
    (lambda: nn.ReLU(), (2, 3, 9, 8)),
    (lambda: nn.Dropout(0.5), (2, 3, 9, 8)),
    (lambda: nn.Dropout(0.5, inplace=True), (2, 3, 9, 8)),
    (lambda: nn.MaxPool2d(2), (2, 3, 9, 8)),
    (lambda: nn.MaxPool2d(2, return_indices=True), (2, 3, 9, 8)),
    (lambda: nn.AdaptiveAvgPool2d(1), (2, 3, 9, 8)),
    (lambda: nn.Linear(8, 5), (2, 3, 9, 8)),
    (lambda: nn.Softmax(-1), (2, 3, 9, 8)),
]


class Around(nn.Module):
    """Gives a leaf a value of its own, in another memory format too."""

    def __init__(self, leaf: nn.Module, is_permuted: bool) -> None:
        super().__init__()
        self.leaf, self.is_permuted = leaf, is_permuted

    def forward(self, x: torch.Tensor) -> Any:
        x = x * 2
        return self.leaf(x.transpose(1, 2).contiguous().transpose(1, 2) if self.is_permuted else x)


def describe(model: nn.Module, x: torch.Tensor, training: bool) -> list[Any]:
    """Describe each node of a recording: what was called, its form, and its effects by the nodes that they concern."""
    recording = record_mode(read_setup(model, None, None, x), training)
    first: dict[Any, int] = {}
    for node in recording.nodes:
        for storage in meta_of(node).aliases:
            first.setdefault(storage, meta_of(node).position)
    return [_describe(node, first) for node in recording.nodes]


def _describe(node: fx.Node, first: dict[Any, int]) -> Any:
    meta = meta_of(node)
    effects = [sorted(str(first.get(part, "state")) for part in parts) for parts in (meta.reads, meta.writes)]
    aliases = sorted(first[part] for part in meta.aliases)
    return node.op, str(node.target), meta.value, effects, aliases, meta.draws, str(meta.same_as)


@pytest.mark.parametrize(("leaf", "shape"), LEAVES)
def test_a_remembered_leaf_is_recorded_as_one_that_was_run(
    leaf: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    for training, is_permuted in itertools.product((True, False), repeat=2):
        model, x = Around(leaf(), is_permuted).train(training), torch.rand(shape)
        leaf_memo._OUTCOMES.clear()
        function_memo._FORMS.clear()
        ran, remembered = (describe(model, x, training) for _ in range(2))
        assert ran == remembered


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("is_one", [False, True])
def test_a_remembered_attention_is_recorded_as_one_that_was_run(need_weights: bool, is_one: bool) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.last = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x if is_one else x * 2
            attended, _ = self.attention(x, y, y, need_weights=need_weights)
            return self.last(attended)

    model, x = Attending(), torch.rand(2, 5, 8)
    for training in (True, False):
        leaf_memo._OUTCOMES.clear()
        function_memo._FORMS.clear()
        ran, remembered = (describe(model.train(training), x, training) for _ in range(2))
        assert ran == remembered
    assert_equals_eager(Attending(), ["attention[0]", "last"], x, modes=(False,))


FUNCTIONS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    *(lambda x: x + 1, lambda x: x + 1.5, lambda x: x / 2, lambda x: x @ x.mT, lambda x: F.relu(x, inplace=True)),
    *(F.gelu, F.silu, lambda x: F.layer_norm(x, (8,)), lambda x: x.mean((1, 2)), lambda x: torch.cat([x, x], 1)),
    *(lambda x: F.interpolate(x, scale_factor=2.0), lambda x: F.softmax(x, -1), lambda x: x.sum(-1, keepdim=True)),
    *(lambda x: F.pad(x, (1, 1)), lambda x: torch.add(x, x, out=x), lambda x: x.float() + True),
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_a_remembered_function_is_recorded_as_one_that_was_run(
    function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    class Calling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x * 1)

    x = torch.ones(2, 3, 9, 8, dtype=dtype)
    try:
        function(x.clone())
    except RuntimeError:
        return  # not for this dtype
    leaf_memo._OUTCOMES.clear()
    function_memo._FORMS.clear()
    ran, remembered = (describe(Calling(), x, False) for _ in range(2))
    assert ran == remembered


def test_numbers_that_are_equal_and_of_other_types_are_told_apart() -> None:
    class Adding(nn.Module):
        def __init__(self, number: Any) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.number

    x = torch.ones(2, dtype=torch.int64)
    for number in (1, 1.0, True):
        extractor = fxfeat.create_feature_extractor(Adding(number), ["add"], example_inputs=x)
        assert extractor.forms.eval.rows[0].dtype == (x + number).dtype


def test_a_leaf_with_a_hook_runs() -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.ReLU(), nn.ReLU()
            self.second.register_forward_hook(lambda _, __, y: y + 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    assert_equals_eager(Hooked(), ["first", "second"], torch.randn(2, 4))


def test_a_leaf_whose_forward_was_replaced_runs() -> None:
    model = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Linear(4, 4))
    model[1].forward = lambda x: x[:, :2].repeat(1, 2)  # type: ignore[method-assign]
    assert_equals_eager(model, ["0", "1", "2"], torch.randn(2, 4))


def test_leaves_under_vmap_run() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.func.vmap(self.norm)(self.first(self.norm(x)))

    assert_equals_eager(Mapped(), ["first"], torch.randn(2, 4))
