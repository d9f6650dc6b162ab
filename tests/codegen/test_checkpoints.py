"""The whole model's checkpoint is an extractor's, too."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from fxfeat import create_feature_extractor

X = torch.rand(2, 4)


class Tied(nn.Module):
    """Has one weight in two places, a buffer that is not saved, and state of its own form."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last, self.head = (
            nn.Linear(4, 4),
            nn.BatchNorm1d(4),
            nn.Linear(4, 4, bias=False),
            Extra(),
        )
        self.last.weight = self.first.weight
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, x):
        return self.head(self.last(self.norm(self.first(x + self.scratch))))


class Extra(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.steps = nn.Parameter(torch.ones(4)), 3

    def get_extra_state(self):
        return self.steps

    def set_extra_state(self, state):
        self.steps = state

    def forward(self, x):
        return x * self.weight


def changed(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    return other


@pytest.mark.parametrize("names", (["first"], ["norm"], ["head:in"], ["output"], ["norm", "last:in"]))
@pytest.mark.parametrize("engine", ("code", "tap"))
def test_the_whole_checkpoint(names, engine):
    model = Tied().eval()
    other = changed(model)
    expected = create_feature_extractor(other, names, example_inputs=X)(X)
    extractor = create_feature_extractor(model, names, example_inputs=X, engine=engine)
    for mine in (copy.deepcopy(extractor), pickle.loads(pickle.dumps(extractor)), extractor):
        full = other.state_dict()
        assert str(mine.load_state_dict(full)) == "<All keys matched successfully>"
        assert full.keys() == other.state_dict().keys()
        assert all(torch.equal(mine(X)[name], expected[name]) for name in names)
        assert mine.load_state_dict(mine.state_dict()).missing_keys == []


def test_inside_another_module():
    model = Tied().eval()
    outer = nn.Sequential(create_feature_extractor(model, ["first"], example_inputs=X))
    outer.load_state_dict({f"0.{key}": value for key, value in changed(model).state_dict().items()})


def test_unknown_and_missing_keys():
    extractor = create_feature_extractor(Tied().eval(), ["norm"], example_inputs=X)
    full = Tied().state_dict()
    del full["norm.weight"]
    result = extractor.load_state_dict({**full, "head.wieght": X, "other.bias": X}, strict=False)
    assert result.missing_keys == ["norm.weight"]
    assert result.unexpected_keys == ["head.wieght", "other.bias"]
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"head\.wieght", "other\.bias"') as caught:
        extractor.load_state_dict({**full, "head.wieght": X, "other.bias": X})
    assert 'Missing key(s) in state_dict: "norm.weight"' in str(caught.value)
    assert "wrapped" not in str(caught.value)


@pytest.mark.parametrize("wrapper", ("module.", "_orig_mod."))
def test_checkpoints_of_wrapped_models(wrapper):
    model = Tied().eval()
    extractor = create_feature_extractor(model, ["norm"], example_inputs=X)
    full = {wrapper + key: value for key, value in changed(model).state_dict().items()}
    with pytest.raises(RuntimeError) as caught:
        extractor.load_state_dict(full)
    assert str(caught.value).endswith(
        f"The names in this checkpoint start with {wrapper!r}, as those of a wrapped model do. Take that off with "
        f"torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state_dict, {wrapper!r})."
    )
    assert extractor.load_state_dict(full, strict=False).unexpected_keys == list(full)
    torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(full, wrapper)
    extractor.load_state_dict(full)


def test_an_extractor_of_a_wrapped_model():
    model = Tied().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extractor = create_feature_extractor(nn.DataParallel(model), ["norm"], example_inputs=X)
    extractor.load_state_dict(nn.DataParallel(changed(model)).state_dict())
