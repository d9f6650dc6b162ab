"""Nested values of every kind are taken apart and put together as what they were."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from fxfeat.ir.tree import (
    Build,
    children,
    copy_tensors,
    is_structure,
    leaves_of,
    map_nodes,
    map_parts,
    map_structure,
    nodes_in,
    parts_of,
    replace_at,
    replace_children,
    tensors,
    walk,
    zip_parts,
)

Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Boxes:
    xyxy: Any
    label: str = "cat"


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


def negate(part):
    return -part if type(part) is int else part


CONTAINERS = {
    "tuple": ((1, 2), (-1, -2)),
    "list": ([1, 2], [-1, -2]),
    "named tuple": (Pair(1, "b"), Pair(-1, "b")),
    "dict": ({"a": 1}, {"a": -1}),
    "ordered dict": (collections.OrderedDict(a=1), collections.OrderedDict(a=-1)),
    "dataclass": (Boxes(1), Boxes(-1)),
    "slice": (slice(1, None, 2), slice(-1, None, -2)),
    "build": (Build(Boxes, (("xyxy", 1),)), Build(Boxes, (("xyxy", -1),))),
    "nested": ([({"a": Pair(1, [2])},)], [({"a": Pair(-1, [-2])},)]),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_parts_are_mapped_and_the_kind_stays(kind):
    value, mapped = CONTAINERS[kind]
    result = map_parts(value, negate)
    assert result == mapped and type(result) is type(value)
    assert value == CONTAINERS[kind][0]


@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_does_not_change_is_shared(kind):
    value, _ = CONTAINERS[kind]
    assert map_parts(value, lambda part: part) is value


@pytest.mark.parametrize("kind", ["list", "dict", "ordered dict", "nested"])
def test_all_can_be_made_anew(kind):
    value, _ = CONTAINERS[kind]
    other = map_parts(value, lambda part: part, anew=True)
    assert other == value and other is not value and type(other) is type(value)


def test_empty_containers_are_made_anew_too():
    empty: dict[str, Any] = {"a": []}
    map_parts(empty, lambda part: part, anew=True)["a"].append(1)
    assert empty == {"a": []}


def test_what_is_put_in_place_of_a_part_is_not_looked_into():
    assert map_parts((1, [2]), lambda part: [1] if isinstance(part, list) else negate(part)) == (-1, [1])


def test_structures_come_out_as_plain_containers():
    value = (torch.Size([1, 2]), Pair(1, 2), collections.OrderedDict(a=immutable_list([1])), slice(1, 2))
    result = map_structure(value, lambda part: part)
    assert result == ((1, 2), (1, 2), {"a": [1]}, slice(1, 2))
    assert [type(part) for part in result] == [tuple, tuple, dict, slice]
    assert type(result[2]["a"]) is list


def test_what_torch_fx_made_immutable_can_be_changed():
    assert replace_at(immutable_dict(a=immutable_list([1, 2])), (("item", "a"), ("item", 0)), 3) == {"a": [3, 2]}


def test_a_shape_with_something_else_in_it_is_a_tuple():
    assert replace_children(torch.Size([1, 2]), {("item", 0): "n"}) == ("n", 2)


def test_nodes_are_listed_and_replaced_in_order():
    graph = fx.Graph()
    a, b, c = (graph.placeholder(name) for name in "abc")
    value = (a, {"k": [b]}, slice(None, c), Build(Boxes, (("xyxy", a),)))
    assert nodes_in(value) == [a, b, c, a]
    named = map_nodes(value, lambda node: node.name)
    assert named == ("a", {"k": ["b"]}, slice(None, "c"), Build(Boxes, (("xyxy", "a"),)))


@pytest.mark.parametrize(
    "leaf", [torch.zeros(2), nn.Linear(2, 2), fx.Graph().placeholder("x"), "text", 1.5, print, int]
)
def test_leaves_have_no_parts(leaf):
    assert children(leaf) == []


def test_circles_end():
    circle: list[Any] = [1]
    circle.append(circle)
    assert parts_of(circle, int) == [1]
    assert map_parts(circle, negate)[0] == -1


def test_containers_are_looked_into_however_deep_and_objects_are_not():
    nested: Any = torch.zeros(1)
    for _ in range(20):
        nested = [nested]
    assert len(list(tensors(nested))) == 1
    chain: Any = torch.zeros(1)
    for _ in range(20):
        chain = Plain(chain)
    assert list(tensors(chain)) == []


def test_objects_are_looked_into_where_that_is_wanted():
    value = [Plain(1), Boxes(2)]
    assert [part for _, part in walk(value) if isinstance(part, int)] == [1, 2]
    assert leaves_of(value) == value
    assert [part for _, part in walk(value, (), is_structure)] == [value, *value]


def test_parts_at_the_same_place_are_paired():
    pairs = {steps: (left, right) for steps, left, right in zip_parts((1, [2, 3]), (4, [5], 6))}
    assert pairs[("item", 0),] == (1, 4)
    assert pairs[("item", 1), ("item", 0)] == (2, 5)
    assert len(pairs) == 4


@pytest.mark.parametrize("kind", [lambda x: (x, [x]), lambda x: Pair(x, {"k": x}), lambda x: [Boxes(x), Plain(x)]])
def test_a_tensor_that_comes_twice_is_copied_once(kind):
    tensor = torch.zeros(2)
    copied = [part for _, part in tensors(copy_tensors(kind(tensor)))]
    assert len(copied) == 2
    assert copied[0] is copied[1] and copied[0] is not tensor


def test_containers_and_objects_are_copied_with_their_tensors():
    value = {
        "a": [torch.zeros(1)],
        "b": {1},
        "c": Plain(torch.zeros(1)),
        "d": collections.OrderedDict(e=torch.zeros(1)),
    }
    copied = copy_tensors(value)
    assert all(copied[key] is not value[key] for key in value)
    assert type(copied["d"]) is collections.OrderedDict
    assert not {id(tensor) for _, tensor in tensors(value)} & {id(tensor) for _, tensor in tensors(copied)}
