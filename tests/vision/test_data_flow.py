"""Which tensors are computed from which, and what every way between some goes through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fxfeat.vision.data_flow import (
    draw_data_flow,
    draw_memory_flow,
    find_chain,
    find_dominators,
    inputs_of,
    keep_after,
    keep_between,
    list_origins,
    results_of,
)
from tests.vision.recorded import calls, record_small


def named(nodes):
    return [node.name for node in nodes]


class Diamond(nn.Module):
    def forward(self, x):
        stem = x.abs()
        joined = stem.sin() + stem.cos()
        joined.tan()
        return joined.exp()


DIAMOND = record_small(Diamond(), torch.rand(1, 3))
NODES = calls(DIAMOND)


def test_a_chain_goes_around_no_fork():
    chain = find_chain(draw_data_flow(DIAMOND), inputs_of(DIAMOND), results_of(DIAMOND))
    assert named(chain) == ["x", "abs_1", "add", "exp"]


def test_several_ends_share_what_comes_before_their_fork():
    flow = draw_data_flow(DIAMOND)
    assert named(find_chain(flow, [NODES["x"]], [NODES["sin"], NODES["cos"]])) == ["x", "abs_1"]
    assert find_chain(flow, [NODES["sin"]], [NODES["cos"]]) == []


def test_dominators_map_to_the_last_value_before():
    above = find_dominators(draw_data_flow(DIAMOND), inputs_of(DIAMOND))
    assert above[NODES["x"]] is None
    assert above[NODES["add"]] is NODES["abs_1"]
    assert above[NODES["exp"]] is NODES["add"]


def test_what_leads_nowhere_is_cut_off():
    flow = draw_data_flow(DIAMOND)
    assert NODES["tan"] in keep_after(flow, [NODES["sin"]])
    assert set(keep_between(flow, [NODES["sin"]], [NODES["exp"]])) == {NODES["sin"], NODES["add"], NODES["exp"]}


def test_sizes_carry_no_data():
    class Sized(nn.Module):
        def forward(self, x, y):
            return y.reshape(x.shape[0], -1)

    recording = record_small(Sized(), (torch.rand(2, 3), torch.rand(2, 4)))
    nodes = calls(recording)
    flow = draw_data_flow(recording)
    assert set(keep_between(flow, inputs_of(recording), results_of(recording))) == {nodes["y"], nodes["reshape"]}


def test_what_is_overwritten_leads_to_later_readers():
    class Ignoring(nn.Module):
        def forward(self, x):
            y = x + 1
            y.relu_()
            return y.sin()

    recording = record_small(Ignoring(), torch.rand(2, 3))
    nodes = calls(recording)
    assert draw_data_flow(recording).has_edge(nodes["relu_"], nodes["sin"])


def test_a_view_behind_an_activation_in_place_is_not_passed_by():
    class Viewed(nn.Module):
        def forward(self, x):
            return (x + 1).relu_().view(2, 12).sin()

    recording = record_small(Viewed(), torch.rand(2, 3, 4))
    starts, ends = inputs_of(recording), results_of(recording)
    assert named(find_chain(draw_data_flow(recording), starts, ends)) == ["x", "add", "relu_", "view", "sin"]
    assert named(find_chain(draw_memory_flow(recording), starts, ends)) == ["x", "add", "relu_", "sin"]


def test_results_in_objects_are_results():
    @dataclass
    class Output:
        scores: torch.Tensor

    class Wrapped(nn.Module):
        def forward(self, x):
            return Output(x.sin())

    recording = record_small(Wrapped(), torch.rand(2, 3))
    assert set(named(results_of(recording))) == {"sin"}


def test_origins_come_nearest_first_and_once():
    assert named(list_origins(NODES["exp"])) == ["exp", "add", "sin", "cos", "abs_1", "x"]
    assert named(list_origins(NODES["exp"], passes=lambda node: node is not NODES["add"])) == ["exp", "add"]
