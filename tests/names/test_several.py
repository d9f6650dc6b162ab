"""Patterns and classes of modules, which stand for several names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxfeat import NodeNotFoundError, RequestError, create_feature_extractor
from tests.oracle import assert_equals_eager

X = torch.rand(2, 4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.act(self.conv(x)) - 0.1) + x


class ElevenBlocks(nn.Module):
    """Runs its first block last."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(11)])
        self.unused, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in [*self.blocks[1:], self.blocks[0]]:
            x = block(x)
        return self.head(x)


class Encoding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.stem, self.encoder = nn.Linear(4, 4), nn.TransformerEncoder(layer, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.stem(x)[None])


def keys_of(model, request, **options):
    return [row.key for row in create_feature_extractor(model, request, example_inputs=X, **options).rows]


IN_ORDER = [*(f"blocks.{index}" for index in range(1, 11)), "blocks.0"]


@pytest.mark.parametrize("engine", ("code", "tap"))
@pytest.mark.parametrize(
    ("request_", "keys"),
    (
        (["blocks.*"], IN_ORDER),
        (["blocks.?"], [*IN_ORDER[:9], "blocks.0"]),
        (["blocks.1*.conv"], ["blocks.1.conv", "blocks.10.conv"]),
        (["head", "*.3"], ["head", "blocks.3"]),
        (["**.conv"], [f"{name}.conv" for name in IN_ORDER]),
        (["**"], [name for block in IN_ORDER for name in (block, f"{block}.conv", f"{block}.act")] + ["head"]),
        (["blocks.3.**"], ["blocks.3.conv", "blocks.3.act"]),
        (["blocks.2", "blocks.?0", "blocks.2*"], ["blocks.2", "blocks.10"]),
        (["blocks.4.c*:in", "blocks.4.a*@1"], ["blocks.4.conv:in", "blocks.4.act@1"]),
        ({"blocks.1*": "b{}"}, ["b", "b0"]),
        ({"b*.3.*": "{1}_{0}"}, ["conv_locks", "act_locks"]),
        ([Block], IN_ORDER),
        (Block, IN_ORDER),
        ([(Block, nn.Linear)][:1], [name for block in IN_ORDER for name in (block, f"{block}.conv")] + ["head"]),
        ({Block: "at {}", "head": "end"}, [*(f"at {name}" for name in IN_ORDER), "end"]),
    ),
)
def test_keys(request_, keys, engine):
    assert keys_of(ElevenBlocks(), request_, engine=engine) == keys


def test_every_call_of_a_class():
    keys = [f"blocks.{index}.act@{call}" for index in (*range(1, 11), 0) for call in (0, 1)]
    assert keys_of(ElevenBlocks(), nn.ReLU) == keys
    assert_equals_eager(ElevenBlocks(), keys[:4], X)


def test_operations_where_no_module_matches():
    assert keys_of(ElevenBlocks(), ["blocks.?.sub"]) == [f"blocks.{index}.sub" for index in (*range(1, 10), 0)]


def test_a_name_with_a_star_is_that_name():
    model = nn.Sequential()
    model.add_module("c*", nn.ReLU())
    model.add_module("cc", nn.ReLU())
    assert keys_of(model, ["c*"]) == ["c*"]
    assert keys_of(model, {"c*": "k"}) == ["k"]


def test_wrappers_are_left_out():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential(nn.DataParallel(inner), nn.ReLU())
    assert keys_of(model, ["0.*"]) == ["0.0", "0.1"]
    assert keys_of(model, ["0.module.*"]) == ["0.module.0", "0.module.1"]
    assert keys_of(torch.compile(inner), ["*"]) == ["0", "1"]
    assert keys_of(model, ["module.?"]) == ["0", "1"]


def test_modules_inside_leaves():
    model = Encoding().eval()
    layers = [f"encoder.layers.{index}" for index in (0, 1)]
    assert keys_of(model, ["encoder.layers.*"]) == layers
    extractor = create_feature_extractor(model, [nn.Linear], example_inputs=X)
    inside = [f"{layer}.linear{number}" for layer in layers for number in (1, 2)]
    assert [row.key for row in extractor.rows] == ["stem", *inside]
    # The projection of the attention is a linear layer that is never called.
    assert extractor.emission.opened == ("encoder", *layers)


def error_of(model, request):
    with pytest.raises((NodeNotFoundError, RequestError)) as caught:
        create_feature_extractor(model, request, example_inputs=X)
    return str(caught.value)


def test_errors():
    model = ElevenBlocks().eval()
    assert error_of(model, ["block.*"]) == (
        "ElevenBlocks has no node or module that matches 'block.*' in eval mode. Did you mean 'blocks.9' or 'blocks.8' "
        "or 'blocks.7'? fxfeat.get_graph_node_names(model) lists all 57 names."
    )
    assert error_of(model, ["unus*"]) == (
        "ElevenBlocks has no node or module that matches 'unus*' in eval mode. "
        "fxfeat.get_graph_node_names(model) lists all 57 names."
    )
    assert error_of(model, [nn.GELU]) == (
        "ElevenBlocks has no module of the class GELU that runs in eval mode. Those that run are of the classes Block, "
        "Linear, ReLU."
    )
    assert error_of(model, {"blocks.*": "b"}) == (
        "One key, 'b', is given to all that 'blocks.*' stands for. Write {} for what differs, as in 'b{}'."
    )
    assert error_of(model, {"blocks.*": "b{}{}"}) == (
        "'b{}{}' is no key for what 'blocks.*' stands for. Write {} for each star, as in {'blocks.*': 'b{}'}."
    )
    assert error_of(model, {"*.1.*": "{0}"}) == (
        "The request gives the key 'blocks' to two nodes, 'blocks.1.conv' and 'blocks.1.act'. "
        "Give each a key of its own."
    )
    assert (
        error_of(model, [int]) == "return_nodes holds <class 'int'>, a type; names are strings or classes of modules."
    )
