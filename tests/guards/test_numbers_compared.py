"""Numbers that code compares: checked by the comparison, and by the number only where none stands in plain sight."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

INPUTS = [torch.full((2, 8), value) for value in (0.5, 0.6, 0.4, 2.0, -0.5, -3.0, 0.0)]
STRANGE = [torch.full((2, 8), value) for value in (0.5, 2.0, float("nan"), float("inf"))]


def mean(x):
    return x.mean().item()


def is_small(x):
    return abs(mean(x)) < 0.55


def halve(model, x):
    y = x
    while y.norm().item() > 1:
        y = y / 2
    return model.a(y)


def halvings(x):
    count = 0
    while x.norm().item() > 1:
        x, count = x / 2, count + 1
    return count


def either(decide):
    """Make a forward and what it goes by of one rule."""
    return (lambda model, x: model.a(x) if decide(x) else model.b(x)), decide


RULES = {
    "item": either(lambda x: mean(x) > 0.3),
    "tensor": either(lambda x: x.sum() > 3),
    "bool": either(lambda x: bool((x > 0.3).any())),
    "truth of a count": either(lambda x: bool((x > 0.3).sum().item())),
    "count": ((lambda model, x: model.a(x) if (x > 0.3).sum().item() else model.b(x)), lambda x: bool((x > 0.3).any())),
    "negated": either(lambda x: not mean(x) > 0.3),
    "chained": (
        (lambda model, x: model.a(x) if -1 < mean(x) < 1 else model.b(x)),
        lambda x: (mean(x) > -1, mean(x) < 1),
    ),
    "with a size": either(lambda x: (x > 0.3).sum().item() > x.numel() // 2),
    "arithmetic": either(lambda x: (mean(x) * 2 - 1) / 3 > -0.2),
    "helper": either(is_small),
    "converted": either(lambda x: int(x.sum()) > 3 and float(x.max()) < 1),
    "rounded": either(lambda x: round(mean(x)) == 0),
    "parity": either(lambda x: (x > 0.3).sum().item() % 2 == 0),
    "close": either(lambda x: math.isclose(mean(x), 0.5, abs_tol=0.3)),
    "close by far": either(lambda x: math.isclose(mean(x), 0.5, rel_tol=0.1, abs_tol=2)),
    "function": either(lambda x: math.exp(-abs(mean(x))) < 0.5),
    "maximum": (
        (lambda model, x: model.a(x) * max(x[0, 0].item(), x[1, 0].item() + 0.1)),
        lambda x: 0,
    ),
    "minimum": ((lambda model, x: model.a(x) * min(mean(x), 1.0)), lambda x: 0),
    "minimum by type": ((lambda model, x: model.a(x) * min(mean(x), 1)), lambda x: mean(x) > 1),
    "while": (halve, halvings),
    "list of numbers": either(lambda x: any(number > 0.3 for number in x[0].tolist()[:1])),
}


def build(forward):
    model = type("Model", (nn.Module,), {"forward": forward})()
    model.a, model.b = nn.Linear(8, 8), nn.Linear(8, 8)
    return model.eval()


def compare(forward, key, inputs):
    """Assert eager's values where code goes the same way, and a GuardError elsewhere."""
    model = build(forward)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=inputs[0])
    for x in inputs:
        if key(x) == key(inputs[0]):
            assert same(extractor(x)["output"], model(x)), extractor.code
        else:
            with pytest.raises(fxfeat.GuardError):
                extractor(x)


@pytest.mark.parametrize("name", RULES)
def test_a_comparison_is_checked_as_it_is_made(name):
    compare(*RULES[name], INPUTS)


ABOUT_NUMBERS = {
    "nan": either(lambda x: math.isnan(mean(x))),
    "infinite": either(lambda x: math.isinf(mean(x))),
    "finite": either(lambda x: math.isfinite(mean(x))),
    "like itself": either(lambda x: mean(x) == mean(x)),
}


@pytest.mark.parametrize("name", ABOUT_NUMBERS)
def test_questions_about_numbers(name):
    compare(*ABOUT_NUMBERS[name], STRANGE)


@pytest.mark.parametrize("ask", [math.isnan, math.isinf, np.isnan, lambda number: np.float64(number) < 3])
def test_questions_that_no_name_leads_to_are_right_or_refused(ask):
    model = build(lambda model, x: model.a(x) if ask(mean(x)) else model.b(x))
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=INPUTS[3] * 2)
    for x in (*INPUTS, *STRANGE):
        with contextlib.suppress(fxfeat.GuardError):
            assert same(extractor(x)["output"], model(x)), extractor.code


def test_the_comparison_is_what_the_error_shows():
    extractor = fxfeat.create_feature_extractor(build(RULES["close"][0]), ["output"], example_inputs=INPUTS[0])
    assert "check(math.isclose(item, 0.5, abs_tol=0.3), True, " in extractor.code
    assert extractor.code.count("check(") == 1


UNSEEN = {
    "index": lambda model, x: model.a(x) * [1.0, 2.0, 3.0][int(x[0, 0] > 0.45) + int(x[0, 0] > 1)],
    "slice that is long enough": lambda model, x: model.a(x) * len([1, 2][: int(x[0, 0] * 10)]),
    "format": lambda model, x: model.a(x) * float("%.1f" % mean(x)),  # noqa: UP031
    "index of what was selected": lambda model, x: model.a(x) * [1.0, 2.0, 3.0][x[:, 0][x[:, 0] > 0.45].shape[0]],
    "index past whole modules": lambda model, x: model.a(x) * [1.0, 2.0, 3.0][len(model.b(x[x[:, 0] > 0.45]))],
    "index of what is nonzero": lambda model, x: [model.a, model.b, model.a][(x[:, 0] > 0.45).nonzero().shape[0]](x),
    "complex power": lambda model, x: model.a(x) * (x[0, 0].item() ** 0.5).real,
}


@pytest.mark.parametrize("name", UNSEEN)
def test_a_number_that_is_used_out_of_sight_is_checked(name):
    model = build(UNSEEN[name])
    example = torch.tensor([[0.4] * 8, [0.5] * 8])
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=example)
    assert same(extractor(example)["output"], model(example))
    for value in (0.1, 0.6, 3.0, -2.0):
        x = torch.full((2, 8), value)
        try:
            got = extractor(x)["output"]
        except fxfeat.GuardError:
            continue
        assert same(got, model(x)), extractor.code
