"""What kind of operation a call is, and what of it is learnt."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxfeat.vision import learnt, operations
from tests.vision.recorded import calls, record_small


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(4, 3, 3, 3))
        self.point = nn.Parameter(torch.rand(4, 4, 1, 1))
        self.matrix = nn.Parameter(torch.rand(4, 4))
        self.register_buffer("blur", torch.ones(4, 1, 3, 3) / 9)

    def forward(self, x):
        x = F.conv2d(x, self.kernel).relu_()
        x = F.conv2d(x, self.point)
        x = F.conv2d(x, self.blur, groups=4)
        x = F.adaptive_avg_pool2d(F.dropout(x, training=False), 1)
        x = x.flatten(1)
        x = F.layer_norm(x[:, :4], (4,)) @ self.matrix
        return torch.softmax(x, 1) @ x.mT


RECORDING = record_small(Functions(), torch.rand(2, 3, 9, 9))
NODES = calls(RECORDING)


class Layers(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )


LAYERS = record_small(Layers(), torch.rand(2, 3, 9, 9))
CONV, NORM, DROPOUT, POOL, FLATTEN, LINEAR = (node for node in LAYERS.nodes if node.op == "call_module")


def test_functions_and_layers_are_spelled_alike():
    function = next(node for node in RECORDING.nodes if operations.function_of(node) == "adaptive_avg_pool2d")
    assert operations.kind_of(RECORDING, function) == operations.kind_of(LAYERS, POOL) == "adaptiveavgpool2d"


def test_a_function_that_writes_keeps_its_underscore():
    names = {operations.function_of(node) for node in RECORDING.nodes}
    assert {"relu_", "conv2d", "matmul", "getitem"} <= names
    assert operations.function_of(NODES["x"]) == operations.function_of(CONV) == ""


@pytest.mark.parametrize(
    ("ask", "layer", "function"),
    [
        (operations.is_norm, NORM, "layer_norm"),
        (operations.is_dropout, DROPOUT, "dropout"),
        (operations.is_pool, POOL, "adaptive_avg_pool2d"),
        (operations.is_adaptive_pool, POOL, "adaptive_avg_pool2d"),
        (operations.is_layout, FLATTEN, "flatten"),
        (operations.slides, CONV, "conv2d"),
    ],
)
def test_layers_and_functions_are_of_one_kind(ask, layer, function):
    answers = {node: ask(LAYERS, node) for node in (CONV, NORM, DROPOUT, POOL, FLATTEN, LINEAR)}
    assert [node for node, answer in answers.items() if answer] == [layer]
    assert {operations.function_of(node) for node in RECORDING.nodes if ask(RECORDING, node)} == {function}


def test_picks_and_squashes():
    assert [operations.function_of(node) for node in RECORDING.nodes if operations.is_pick(node)] == ["getitem"]
    squashes = [node for node in RECORDING.nodes if operations.is_squash(RECORDING, node)]
    assert [operations.function_of(node) for node in squashes] == ["relu_", "softmax"]


def test_a_bare_module_that_turns_axes_only_changes_the_layout():
    class Turn(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    turned = record_small(nn.Sequential(Turn()), torch.rand(2, 3, 5, 7))
    assert any(operations.is_layout(turned, node) for node in turned.nodes)


def test_wide_kernels_and_products_mix_places():
    mixing = [node for node in RECORDING.nodes if learnt.mixes(RECORDING, node)]
    names = [operations.function_of(node) for node in mixing]
    assert names == ["conv2d", "conv2d", "matmul", "matmul"]
    assert NODES["conv2d_1"] not in mixing
    assert learnt.mixes(LAYERS, CONV) and not learnt.mixes(LAYERS, LINEAR)


def test_attention_multiplies_values_and_no_weights():
    products = [node for node in RECORDING.nodes if operations.function_of(node) == "matmul"]
    assert [learnt.attends(node) for node in products] == [False, True]
    assert [learnt.is_linear(RECORDING, node, True) for node in products] == [True, False]


def test_a_convolution_is_linear_where_nothing_has_positions():
    assert learnt.is_linear(LAYERS, CONV, pooled=True) and not learnt.is_linear(LAYERS, CONV, pooled=False)
    assert learnt.is_linear(LAYERS, LINEAR, pooled=False)


def test_norms_learn_no_matrix():
    assert learnt.has_weights(LAYERS, CONV) and not learnt.has_weights(LAYERS, NORM)


def test_a_blur_is_fixed_and_a_kernel_is_not():
    fixed = {node.target: learnt.is_fixed(RECORDING, node) for node in RECORDING.nodes if node.op == "get_attr"}
    assert fixed == {"kernel": False, "point": False, "blur": True, "matrix": False}
