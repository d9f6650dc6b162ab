"""Functions whose results depend on sizes or on values: right at other sizes, or refused with the line."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import is_grad_enabled, nn

import fxfeat
from tests.oracle import assert_equals_eager, eager, run, same

SERIES, OTHER = torch.randn(2, 5, 4), torch.randn(3, 7, 4)
SHORT = torch.randn(1, 2, 4)


class Model(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.function(self.linear(x)))


def steps(y):
    state, kept = torch.zeros(y.shape[0], 4), []
    for row in y.unbind(1):
        state = torch.tanh(state + row)
        kept.append(state)
    return torch.stack(kept, 1)


def assign(y):
    y = y.clone()
    y[y > 0] = 0.5
    y[:, ::2] *= 2
    y[..., -1].fill_(1.0)
    return y


def lengths(y):
    counts = (y[..., 0] > 0).sum(1)
    return y.masked_fill((torch.arange(y.size(1))[None] < counts[:, None])[..., None], 0.0)


def reversed_pairs(y):
    parts = y.chunk(2, -1)
    return torch.cat([a + b * i for i, (a, b) in enumerate(zip(parts, reversed(parts), strict=True))], -1)


# Right at every size and for every value.
FREE = {
    "split with sizes": lambda y: torch.cat(y.split([1, 3], dim=-1)[::-1], -1),
    "split at a size": lambda y: torch.cat(torch.split(y, [y.shape[1] - 1, 1], dim=1)[::-1], 1),
    "zip and enumerate over chunks": reversed_pairs,
    "einsum": lambda y: torch.einsum("bij,bkj->bik", y, y) @ y,
    "where": lambda y: torch.where(y > 0, y, torch.zeros_like(y) - 1),
    "boolean index": lambda y: y[y[..., 0] > 0],
    "boolean assignment": assign,
    "nonzero": lambda y: y[(y[:, 0, 0] > -100).nonzero().squeeze(1)],
    "indices of where": lambda y: y[torch.where(y[..., 0] > 0)],
    "unique": lambda y: y + torch.unique((y > 0).long(), return_inverse=True)[1],
    "masked select": lambda y: torch.masked_select(y, y > -1e9).view(-1, 4),
    "topk": lambda y: y.topk(2, dim=1).values,
    "sort": lambda y: (lambda found: found.values.gather(1, found.indices))(torch.sort(y, dim=1, descending=True)),
    "complex": lambda y: torch.fft.ifft(torch.fft.fft(y, dim=1) * 1j, dim=1).imag,
    "real transform": lambda y: torch.fft.irfft(torch.fft.rfft(y, dim=1) * 2, n=y.shape[1], dim=1),
    "arange": lambda y: y + torch.arange(y.shape[1], device=y.device, dtype=y.dtype)[None, :, None],
    "new_zeros": lambda y: torch.cat([y.new_zeros(y.shape[0], 1, 4), y], 1),
    "tensor of sizes": lambda y: y * torch.tensor([*y.shape, 1], dtype=y.dtype),
    "mask of a size": lambda y: torch.full((y.shape[1],) * 2, float("-inf")).triu(1).exp() @ y,
    "lengths": lengths,
    "roll": lambda y: torch.roll(y, y.shape[1] // 2, 1).flip(1),
    "interpolate": lambda y: F.interpolate(F.avg_pool1d(y, 2), size=y.shape[-1:]),
}
# A number of pieces is pinned.
COUNTED = {
    "pieces": lambda y: torch.cat([piece * i for i, piece in enumerate(y.split(2, dim=1))], 1),
    "rows": lambda y: torch.cat([*y], 0),
    "steps": steps,
    "a list of rows": lambda y: torch.stack([y[i] * i for i in range(len(y))]),
    "blocks of a few": lambda y: torch.cat([y[i : i + 16] + i for i in range(0, y.shape[0], 16)]),
    "blocks of a few by len": lambda y: torch.cat([y[i : i + 16] + i for i in range(0, len(y), 16)]),
    "a length above a bound": lambda y: y * 2 if len(y) > 10 else y,
    "a list of numbers": lambda y: torch.stack([row * k for row, k in zip(y, y[:, 0, 0].tolist(), strict=True)]),
}


@pytest.mark.parametrize("name", FREE)
def test_every_size(name):
    others = [OTHER, SHORT, SERIES + 5, SERIES - 5]
    assert_equals_eager(Model(FREE[name]), ["linear", "head"], SERIES, *others)


def right_or_guarded(model, example, *others):
    """Assert that the head is eager's, or that a GuardError says otherwise."""
    extractor = fxfeat.create_feature_extractor(model.eval(), ["head"], example_inputs=example)
    assert same(run(extractor, example)["head"], eager(model, example)["head"][0])
    for inputs in others:
        seen = eager(model, inputs)
        try:
            found = run(extractor, inputs)
        except fxfeat.GuardError:
            continue
        assert same(found["head"], seen["head"][0]), f"{tuple(inputs.shape)}\n{extractor.code}"


@pytest.mark.parametrize("name", COUNTED)
def test_a_number_of_pieces_is_right_or_refused(name):
    right_or_guarded(Model(COUNTED[name]), SERIES, OTHER, SHORT, torch.randn(40, 5, 4))


def test_the_number_of_pieces_is_named():
    model = Model(COUNTED["pieces"]).eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SERIES)
    source, line = inspect.getsourcelines(COUNTED["pieces"])
    with pytest.raises(fxfeat.GuardError) as caught:
        extractor(OTHER)
    assert str(caught.value) == (
        f"This input takes another path than the recorded one: at {__file__}:{line}: `{source[0].strip()}` the "
        "recording saw 3, this input gives 4. Create the extractor again with example_inputs= like this input."
    )


# How many dimensions are left after a squeeze is a matter of sizes.
SQUEEZED = {
    "method": lambda y: (lambda z: z if z.dim() == 3 else z[:, None] + 1)(y.squeeze(1)),
    "function": lambda y: (lambda z: z if z.ndim == 3 else z[:, None] + 1)(torch.squeeze(y, dim=1)),
    "several": lambda y: (lambda z: z if len(z.shape) == 3 else z + 1)(y.squeeze((0, 1))),
    "all": lambda y: (lambda z: z if z.dim() == 3 else z + 1)(y.squeeze()),
}


@pytest.mark.parametrize("name", SQUEEZED)
def test_dimensions_after_a_squeeze_are_right_or_refused(name):
    right_or_guarded(Model(SQUEEZED[name]), SERIES, OTHER, SERIES[:, :1], SERIES[:1], SERIES[:1, :1])


def fifth_or_first(y):
    try:
        return y + y[5]
    except IndexError:
        return y + y[0]


def viewed_or_not(y):
    try:
        return y + y.view(10, -1, 5, 4).mean(0)[:1]
    except RuntimeError:
        return y + 1


@pytest.mark.parametrize("function", [fifth_or_first, viewed_or_not], ids=lambda function: function.__name__)
def test_an_error_that_other_sizes_do_not_raise_is_right_or_refused(function):
    right_or_guarded(Model(function), SERIES, OTHER, torch.randn(40, 5, 4))


# What a model may ask about its input beside its sizes. The layer gets float32 whatever came.
class Asks(nn.Module):
    def __init__(self, question):
        super().__init__()
        self.question = question
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x.float() * (2 if self.question(x) else 1))


QUESTIONS = {
    "dtype": lambda x: x.dtype == torch.float64,
    "is_floating_point": lambda x: x.is_floating_point(),
    "function is_floating_point": lambda x: torch.is_floating_point(x),
    "promoted": lambda x: torch.promote_types(x.dtype, torch.float32) == torch.float32,
    "bytes": lambda x: x.element_size() == 8,
    "contiguous": lambda x: x.is_contiguous(),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_other_dtypes_and_layouts_are_right_or_refused(name):
    right_or_guarded(Asks(QUESTIONS[name]), SERIES, SERIES.double(), SERIES.long(), SERIES.mT.contiguous().mT)


class AsksForGradients(Model):
    def __init__(self, question):
        super().__init__(lambda y: y * (2 if question(y) else 1))


ABOUT_GRADIENTS = {
    "requires_grad": lambda y: y.requires_grad,
    "grad_fn": lambda y: y.grad_fn is not None,
    "is_leaf": lambda y: y.is_leaf,
    "is_grad_enabled": lambda y: torch.is_grad_enabled(),
    "imported": lambda y: is_grad_enabled(),
}


@pytest.mark.parametrize("question", ABOUT_GRADIENTS.values(), ids=ABOUT_GRADIENTS)
@pytest.mark.parametrize("enabled", [True, False])
def test_questions_about_gradients_are_right_or_refused(question, enabled):
    model = AsksForGradients(question).eval()
    try:
        extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SERIES)
        with torch.set_grad_enabled(enabled):
            assert same(extractor(SERIES)["head"], model(SERIES)), extractor.code
    except fxfeat.FxfeatError as error:
        assert "test_shapes.py:" in str(error)


class Checkpoints(Model):
    """Asks for gradients to save memory, which it does not do here."""

    def __init__(self, question):
        super().__init__(lambda y: y * (2 if self.saves_memory and question(y) else 1))
        self.saves_memory = False


@pytest.mark.parametrize("question", ABOUT_GRADIENTS.values(), ids=ABOUT_GRADIENTS)
def test_questions_about_gradients_that_decide_nothing_are_not_checked(question):
    model = Checkpoints(question).eval()
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SERIES)
        assert extractor.guards == ()
        for later in (True, False):
            with torch.set_grad_enabled(later):
                assert same(extractor(SERIES)["head"], model(SERIES))


@pytest.mark.parametrize("trained", [True, False])
def test_parameters_that_are_frozen_later(trained):
    """Whether something is trained is one question, whether gradients are on another."""
    model = AsksForGradients(lambda y: y.requires_grad).eval().requires_grad_(trained)
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SERIES)
    model.requires_grad_(not trained)
    try:
        assert same(extractor(SERIES)["head"], model(SERIES))
    except fxfeat.GuardError as error:
        assert "test_shapes.py:" in str(error)
