"""The two public functions, whole."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torchvision.models import feature_extraction as torchvisions

import fxfeat
from tests.oracle import assert_equals_eager, same

IMAGE = torch.randn(2, 3, 32, 32)


def model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_what_is_public():
    assert {"create_feature_extractor", "get_graph_node_names", "FeatureExtractor"} <= set(fxfeat.__all__)
    assert {"FxfeatError", "GuardError", "NodeNotFoundError", "RequestError", "TraceError"} <= set(fxfeat.__all__)
    assert all(hasattr(fxfeat, name) for name in fxfeat.__all__)


@pytest.mark.parametrize("name", ["create_feature_extractor", "get_graph_node_names"])
def test_torchvisions_arguments_come_first_and_in_order(name):
    theirs = [p.name for p in inspect.signature(getattr(torchvisions, name)).parameters.values()]
    mine = list(inspect.signature(getattr(fxfeat, name)).parameters.values())
    assert [p.name for p in mine[: len(theirs)]] == theirs
    assert all(p.kind is p.KEYWORD_ONLY for p in mine[len(theirs) :])


@pytest.mark.parametrize("error", [fxfeat.GuardError, fxfeat.NodeNotFoundError, fxfeat.RequestError, fxfeat.TraceError])
def test_one_class_catches_all_errors(error):
    assert issubclass(error, fxfeat.FxfeatError)
    assert issubclass(error, (ValueError, RuntimeError))


def test_names():
    train, evaluation = fxfeat.get_graph_node_names(model(), example_inputs=IMAGE)
    assert train == evaluation == ["input", "0", "1", "2", "3", "4"]


def test_features():
    assert_equals_eager(model(), ["0", "1", "2", "3", "4", "output"], IMAGE, torch.randn(3, 3, 40, 36))


def test_without_an_example():
    given = model().eval()
    extractor = fxfeat.create_feature_extractor(given, {"1": "map", "4": "scores"})
    found = extractor(IMAGE)
    assert list(found) == ["map", "scores"]
    assert same(found["scores"], given(IMAGE))
    assert extractor.guards == ()


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Conv1d(3, 2, 3), torch.randn(2, 3, 50)),
        (nn.Conv2d(1, 2, 3), torch.randn(2, 1, 20, 20)),
        (nn.Conv3d(2, 2, 3), torch.randn(1, 2, 5, 9, 9)),
        (nn.Linear(7, 2), torch.randn(3, 7)),
        (nn.Embedding(11, 4), torch.tensor([[1, 2, 10]])),
    ],
    ids=lambda held: type(held).__name__,
)
def test_an_example_is_worked_out(layer, inputs):
    given = nn.Sequential(layer, nn.Tanh()).eval()
    extractor = fxfeat.create_feature_extractor(given, ["0", "output"])
    found = extractor(inputs)
    assert same(found["0"], layer(inputs))
    assert same(found["output"], given(inputs))


def test_an_example_of_another_dtype():
    given = model().eval().double()
    assert same(fxfeat.create_feature_extractor(given, ["output"])(IMAGE.double())["output"], given(IMAGE.double()))


def test_the_same_twice():
    given = model().eval()
    first = fxfeat.create_feature_extractor(given, ["1"], example_inputs=IMAGE)
    second = fxfeat.create_feature_extractor(given, ["1"], example_inputs=IMAGE)
    assert first.code == second.code
    assert same(first(IMAGE)["1"], second(IMAGE)["1"])


def test_a_model_that_is_one_leaf():
    layer = nn.Conv2d(3, 2, 1)
    found = fxfeat.create_feature_extractor(layer, ["output", "input"], example_inputs=IMAGE)(IMAGE)
    assert same(found["output"], layer(IMAGE))
    assert same(found["input"], IMAGE)


def test_a_mode_that_cannot_be_recorded_says_so_when_it_is_used():
    class EvalOnly(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            if self.training:
                raise NotImplementedError("no training here")
            return self.linear(x)

    x = torch.randn(2, 4)
    given = EvalOnly().eval()
    extractor = fxfeat.create_feature_extractor(given, ["linear"], example_inputs=x)
    assert same(extractor(x)["linear"], given(x))
    with pytest.raises(fxfeat.TraceError) as caught:
        extractor.train()(x)
    assert str(caught.value) == (
        "EvalOnly could not be recorded in train mode with inputs ((2, 4) float32): NotImplementedError: no training "
        "here. If it needs other inputs, pass example_inputs=."
    )


def test_a_layer_without_sizes_yet():
    lazy = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    for function in (fxfeat.get_graph_node_names, lambda held: fxfeat.create_feature_extractor(held, ["1"])):
        with pytest.raises(fxfeat.TraceError) as caught:
            function(lazy)
        assert str(caught.value) == (
            "'0.weight' of Sequential has no size yet. Run the model once on a real input, then wrap it."
        )


def test_threads_do_not_meet():
    from concurrent.futures import ThreadPoolExecutor

    given = model().eval()
    extractor = fxfeat.create_feature_extractor(given, ["4"], example_inputs=IMAGE)
    expected = given(IMAGE)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: extractor(IMAGE)["4"], range(8)))
    assert all(same(held, expected) for held in found)


def test_an_extractor_made_while_another_thread_runs_the_model():
    import threading

    given = model().eval()
    expected = given(IMAGE)
    wrong: list[object] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            try:
                if not same(given(IMAGE), expected):
                    wrong.append("value")
            except Exception as error:
                wrong.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(3):
            fxfeat.create_feature_extractor(given, ["1", "4"], example_inputs=IMAGE)
    finally:
        done.set()
        worker.join()
    assert wrong == []
