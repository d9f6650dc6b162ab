"""The parts of a trace by themselves: what is numbered, tied, counted as an effect, guarded and refused."""

from __future__ import annotations

import itertools
import operator

import pytest
import torch
from torch import fx, nn

from fxfeat.ir.example import Example
from fxfeat.ir.node_meta import RNG, meta_of
from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.memory import WholeCall, all_written
from fxfeat.trace.builder.model_parts import add_modules, read_tensors
from fxfeat.trace.builder.nodes import add_node, guard, nodes_from, uncounted, walk_back
from fxfeat.trace.builder.operands import to_write
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.results import write_draw
from fxfeat.trace.builder.trace import Decisions, SettingsInForce, Trace
from fxfeat.trace.fake_tensors import MetaTensors
from fxfeat.trace.proxies.numbers import RecordedInt, plain
from fxfeat.trace.recorder import Recorder


def make_trace(model):
    parts = add_modules(read_tensors(model, Example((), {}), joins_memory=True), model, None, None)
    return Trace(parts, MetaTensors(), Decisions(), SettingsInForce())


@pytest.fixture
def model():
    return nn.BatchNorm2d(3)


@pytest.fixture
def trace(model):
    return make_trace(model)


def spelled(trace):
    return [(node.op, getattr(node.target, "__name__", node.target)) for node in trace.graph.nodes]


def test_nodes_are_numbered_and_what_is_not_counted_has_no_path(trace):
    first = add_node(trace, "placeholder", "x")
    with uncounted(trace):
        second = add_node(trace, "call_function", len, (first,))
    third = add_node(trace, "call_function", len, (first,))
    assert [meta_of(node).position for node in trace.graph.nodes] == [0, 1, 2]
    assert [meta_of(node).call_path for node in (first, second, third)] == [(1,), (), (2,)]
    assert nodes_from(trace, 1) == [third, second]


def test_a_real_tensor_has_one_fake_tensor_and_one_node(trace, model):
    assert node_of(trace, model.weight) is node_of(trace, model.weight)
    assert fake_of(trace, model.weight).is_meta
    assert fake_of(trace, fake_of(trace, model.weight)) is fake_of(trace, model.weight)
    assert spelled(trace) == [("get_attr", "weight")]


def test_a_torch_function_is_one_node_with_what_it_writes(trace, model):
    with Recorder(trace):
        model.running_mean.add_(1)
    assert spelled(trace) == [("get_attr", "running_mean"), ("call_method", "add_")]
    assert all_written(trace) == trace.memory.persistent


def test_sizes_stay_with_their_tensor(trace, model):
    with Recorder(trace):
        double = model.weight.shape[0] * 2
    assert (type(double), plain(double)) == (RecordedInt, 6)
    assert [name for _, name in spelled(trace)] == ["weight", "getattr", "getitem", "mul"]
    assert to_write(trace, double) is double.node
    assert to_write(make_trace(model), double) == 6


def test_a_decision_on_the_size_of_a_parameter_is_the_same_for_every_input(trace, model):
    with Recorder(trace):
        assert model.weight.shape[0] > 2
    assert trace.decisions.guards == []


def test_what_a_whole_call_does_is_done_by_the_whole_call_around_it(trace, model):
    with Recorder(trace), WholeCall(trace, ()) as outer:
        with WholeCall(trace, ()) as inner:
            torch.rand(2)
        assert inner.draws
        assert outer.writes == {RNG}
    assert trace.memory.effects.writes == set()
    assert spelled(trace) == []


def test_a_guard_on_a_number_that_was_drawn_is_no_guard(trace):
    number = write_draw(trace, operator.index, (), {}, 7)
    guard(trace, number.node, 7)
    assert trace.decisions.guards == []
    assert [unsupported.reason for unsupported in trace.obstacles.unsupported] == [
        "random numbers are drawn from Python or NumPy"
    ]


def test_a_walk_back_comes_by_each_node_once():
    graph = fx.Graph()
    node = graph.placeholder("x")
    for _ in range(40):
        node = graph.call_function(operator.add, (node, graph.call_function(operator.neg, (node,))))
    assert len(list(itertools.islice(walk_back(node), 1000))) == 1 + 2 * 40
