"""Dtypes that code reads are those of the tensor they were read from, after moving and with other inputs."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import same

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def both(m, x):
    given, weights = x.dtype, m.a.weight.dtype
    return m.a(x.to(weights)).to(given)


def both_the_other_way_round(m, x):
    weights, given = m.a.weight.dtype, x.dtype
    return m.a(x.to(weights)).to(given)


FOLLOWED = {
    "to": lambda m, x: m.a(x) + torch.ones(8).to(x.dtype),
    "made in": lambda m, x: m.a(x) + torch.zeros(8, dtype=x.dtype) + torch.full((8,), 0.3, dtype=x.dtype),
    "of a weight": lambda m, x: m.a(x.to(m.a.weight.dtype)),
    "back": lambda m, x: m.a(x.to(m.a.weight.dtype)).to(x.dtype),
    "both read first": both,
    "both the other way round": both_the_other_way_round,
    "in float32": lambda m, x: m.a(F.softmax(x, -1, dtype=torch.float32).to(x.dtype)),
    "in float64": lambda m, x: m.a(x.double().cumsum(-1).to(x.dtype)),
    "constant": lambda m, x: m.a(x) + torch.zeros(8, dtype=torch.float32),
    "of a result": lambda m, x: m.b(m.a(x.to(m.a.weight.dtype)).float().to(m.a.weight.dtype)),
}

DECIDED = {
    "branch": lambda m, x: m.a(x) * (2 if x.dtype == torch.float32 else 3),
    "text": lambda m, x: m.a(x) * len(str(x.dtype)),
    "type": lambda m, x: m.a(x) + torch.ones(8).type(x.type()),
    "branch on a type": lambda m, x: m.a(x.to(m.a.weight)) * (2 if x.type() == "torch.FloatTensor" else 3),
    "smallest": lambda m, x: m.a(x).masked_fill(x > 0, torch.finfo(x.dtype).min),
    "default": lambda m, x: m.a(x) + torch.zeros(8, dtype=torch.get_default_dtype()),
    "like a weight": lambda m, x: m.a(x if x.dtype == m.a.weight.dtype else x.to(m.a.weight.dtype) * 2),
    "of a weight": lambda m, x: m.a(x.to(m.a.weight.dtype)) * (2 if m.a.weight.dtype == torch.float16 else 3),
    "limits of a weight": lambda m, x: m.a(x.to(m.a.weight.dtype)) + torch.finfo(m.a.weight.dtype).eps,
    "of a result": lambda m, x: m.a(x.to(m.a.weight)) * (2 if m.a(x.to(m.a.weight)).dtype == torch.float32 else 3),
    "result type": lambda m, x: m.a(x.to(m.a.weight)) * (2 if torch.result_type(x, m.a.weight) == torch.float32 else 3),
}


def build(forward):
    model = type("Model", (nn.Module,), {"forward": forward})()
    model.a, model.b = nn.Linear(8, 8), nn.Linear(8, 8)
    return model.eval()


def runs(model):
    """Yield the extractor and the model in each dtype, inputs that the model takes, and what it gives."""
    x = torch.randn(2, 8)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=x)
    for moved in DTYPES:
        theirs, mine = copy.deepcopy(model).to(moved), copy.deepcopy(extractor).to(moved)
        for dtype in DTYPES:
            try:
                expected = theirs(x.to(dtype))
            except RuntimeError:
                continue
            yield mine, x.to(dtype), expected


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_dtype_follows_what_it_was_read_from(name):
    for extractor, x, expected in runs(build(FOLLOWED[name])):
        assert same(extractor(x)["output"], expected), extractor.code


@pytest.mark.parametrize("name", DECIDED)
def test_a_dtype_that_decides_is_right_or_refused(name):
    for extractor, x, expected in runs(build(DECIDED[name])):
        try:
            got = extractor(x)["output"]
        except fxfeat.GuardError:
            continue
        assert same(got, expected), extractor.code


def test_the_dtype_of_a_weight_is_checked_where_it_is_read():
    extractor = fxfeat.create_feature_extractor(
        build(DECIDED["of a weight"]), ["output"], example_inputs=torch.ones(2, 8)
    )
    with pytest.raises(
        fxfeat.GuardError, match=r"m\.a\.weight\.dtype == torch\.float16.*the recording saw torch.float32"
    ):
        extractor.half()(torch.ones(2, 8))


def test_two_requests_of_one_model_are_told_the_same_dtypes():
    class Follows(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x).float().softmax(-1).to(x.dtype) * x.shape[0]

    extractor = fxfeat.create_feature_extractor(
        Follows(),
        train_return_nodes=["a", "output"],
        eval_return_nodes=["output", "a"],
        example_inputs=torch.ones(2, 8),
        engine="code",
    )
    assert "x.dtype" in extractor.train().code and "x.dtype" in extractor.eval().code
    assert [status.state for status in extractor.freedoms if status.axis == "batch"] == ["free"]


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(8, 8)

    def forward(self, x):
        self.classifier = self.classifier.to(torch.float32)
        return self.classifier(x.to(torch.float32)).softmax(-1)


def test_a_layer_that_is_cast_to_what_it_is_is_written_out_for_that_dtype():
    model, x = nn.Sequential(nn.Linear(8, 8), Router()), torch.randn(2, 8)
    extractor = fxfeat.create_feature_extractor(model, ["1.classifier", "output"], example_inputs=x, engine="code")
    assert "_parse_to" not in extractor.code
    assert same(extractor(x)["output"], model(x))
    with pytest.raises(fxfeat.GuardError, match=r"others of input\.dtype were found to run other code"):
        extractor.double()(x.double())


class CastsWhatDiffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x):
        expected = self.a.weight.dtype
        if x.dtype != expected:
            x = x.to(expected)
        return self.a(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_code_that_compares_dtypes_moves_to_another(dtype):
    model, x = CastsWhatDiffers().eval(), torch.randn(2, 8, dtype=dtype)
    extractor = fxfeat.create_feature_extractor(model, ["a"], example_inputs=torch.randn(2, 8), engine="code")
    assert same(copy.deepcopy(extractor).to(dtype)(x)["a"], copy.deepcopy(model).to(dtype)(x))


def test_code_that_compares_dtypes_is_refused_where_they_differ():
    extractor = fxfeat.create_feature_extractor(CastsWhatDiffers().eval(), ["a"], example_inputs=torch.randn(2, 8))
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(torch.randn(2, 8).double())
    message = str(error.value).replace(f"{__file__.rpartition('/')[0]}/", "")
    assert re.sub(r"py:\d+", "py:N", message) == (
        "This input takes another path than the recorded one: at test_dtypes_followed.py:N: "
        "`expected = self.a.weight.dtype`, and the same dtype at test_dtypes_followed.py:N: `if x.dtype != expected:` "
        "the recording saw True, this input gives False. Create the extractor again with example_inputs= like this "
        "input."
    )


class TwoInputs(nn.Module):
    """Compares one input's dtype with the weights', and takes another as it comes."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x, y):
        x = x if x.dtype == self.a.weight.dtype else x.to(self.a.weight.dtype) * 2
        return self.a(x) + y


@pytest.mark.parametrize("given", DTYPES)
@pytest.mark.parametrize("moved", DTYPES)
def test_an_input_whose_dtype_nothing_reads_is_right_or_refused(given, moved):
    model, x, y = TwoInputs().eval().to(moved), torch.randn(2, 8), torch.randn(2, 8)
    extractor = fxfeat.create_feature_extractor(TwoInputs().eval(), ["output"], example_inputs=(x, y))
    extractor.to(moved).load_state_dict(model.state_dict())
    try:
        got = extractor(x.to(moved), y.to(given))["output"]
    except fxfeat.GuardError:
        return
    assert same(got, model(x.to(moved), y.to(given)))
