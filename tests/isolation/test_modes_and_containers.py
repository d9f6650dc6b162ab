"""What a model's own ``train`` does to tensors, and what containers of a class of their own hold, is as it was."""

from __future__ import annotations

import collections
import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat

X = torch.rand(4, 8)


class Merging(nn.Linear):
    """Merges an adapter into its weight for eval mode."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (self.up @ self.down) * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if self.merged else y + x @ self.down.T @ self.up.T


class Swapping(nn.Linear):
    """Has averaged weights in eval mode, by exchanging memory."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.average, self.trained = self.weight.detach() * 0.5, None

    def train(self, mode: bool = True) -> Swapping:
        super().train(mode)
        if not mode and self.trained is None:
            self.trained, self.weight.data = self.weight.data, self.average
        elif mode and self.trained is not None:
            self.weight.data, self.trained = self.trained, None
        return self


class Freezing(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 8)

    def train(self, mode: bool = True) -> Freezing:
        super().train(mode)
        return self.requires_grad_(mode)


class Counting(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 8)
        self.register_buffer("epoch", torch.zeros(()))

    def train(self, mode: bool = True) -> Counting:
        self.epoch += mode
        return super().train(mode)


class FreezesInForward(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.requires_grad_(not self.training)
        return super().forward(x)


def state_of(model: nn.Module) -> list[Any]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [(name, tensor.detach().clone(), tensor.requires_grad, tensor.data_ptr()) for name, tensor in tensors]


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: fxfeat.create_feature_extractor(model, ["1"], example_inputs=X),
        lambda model: fxfeat.get_graph_node_names(model, example_inputs=X),
    ],
    ids=["extractor", "names"],
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [Merging, Swapping, Freezing, Counting, FreezesInForward])
def test_tensors_are_as_they_were(kind: type[nn.Module], training: bool, ask: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(kind(), nn.ReLU()).train(training)
    before, given = state_of(model), copy.deepcopy({**vars(model[0]), "_parameters": None, "_buffers": None})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*runs whole")
        ask(model)
    for (name, value, is_trained, address), now in zip(before, state_of(model), strict=True):
        assert torch.equal(value, now[1]), name
        assert (is_trained, address) == now[2:], name
    assert vars(model[0]).get("merged") == given.get("merged")


class Making(collections.OrderedDict[str, Any]):
    """Gives out a new object of the class that it holds."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)()


class Loud(dict[str, Any]):
    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("not by this way")


class Doubling(list[Any]):
    def __iter__(self) -> Any:
        return (2 * value for value in super().__iter__())


MADE = Making(relu=nn.ReLU, tanh=nn.Tanh)
LOUD = Loud(scale=2.0)
DOUBLED = Doubling([1.0, 2.0])


class Looking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.sizes = nn.Linear(8, 8), Doubling([3.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return MADE["tanh"](self.linear(x)) * LOUD["scale"] * DOUBLED[1] + self.sizes[0]


def test_containers_that_give_out_something_else_are_as_they_were() -> None:
    model = Looking().eval()
    extractor = fxfeat.create_feature_extractor(model, ["linear", "output"], example_inputs=X)
    assert list(collections.OrderedDict.__iter__(MADE)) == ["relu", "tanh"]
    assert dict.__getitem__(MADE, "tanh") is nn.Tanh
    assert dict(LOUD) == {"scale": 2.0}
    assert [list.__getitem__(DOUBLED, index) for index in range(2)] == [1.0, 2.0]
    assert torch.equal(extractor(X)["output"], model(X))
