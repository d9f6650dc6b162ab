"""An input that no feature needs is taken in any form; one that the code goes by stays checked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat

X = torch.linspace(-1, 1, 16).reshape(2, 8)
Y = X.flip(0)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)


class Multiplied(Two):
    def forward(self, x, y):
        return self.a(x) @ self.b(y).T


class AddedIfGiven(Two):
    def forward(self, x, y=None):
        x = self.a(x)
        return x if y is None else x + self.b(y)


class Signed(Two):
    def forward(self, x, y):
        x = self.a(x)
        return x if y else -x


class RankFirst(Two):
    def forward(self, x, y):
        x = self.a(x if x.dim() == 2 else x[0])
        return x + y


class Kept(Two):
    def forward(self, x, y):
        return self.a(x) + y["kept"]


class DtypeOfX(Two):
    def forward(self, x, y):
        return self.a(x.to(self.a.weight.dtype)) + y.to(x.dtype)


OTHERS = [None, 3, [1], {}, "text", Y.double(), torch.rand(5, 8, 2)]


@pytest.mark.parametrize(
    ("kind", "given"),
    [(Multiplied, Y), (AddedIfGiven, Y), (Signed, True), (RankFirst, Y), (Kept, {"kept": Y}), (DtypeOfX, Y)],
)
def test_it_is_taken_in_any_form(kind, given):
    model = kind().eval()
    extractor = fxfeat.create_feature_extractor(model, ["a"], example_inputs=(X, given))
    assert not extractor.tapped
    for other in (given, *OTHERS):
        assert torch.equal(extractor(X, other)["a"], model.a(X))


def test_it_may_be_left_out_where_the_model_takes_that():
    model = AddedIfGiven().eval()
    extractor = fxfeat.create_feature_extractor(model, ["a"], example_inputs=(X, Y))
    assert torch.equal(extractor(X)["a"], model.a(X))
    with pytest.raises(TypeError):
        fxfeat.create_feature_extractor(Multiplied().eval(), ["a"], example_inputs=(X, Y))(X)


class AskedForNone(Two):
    def forward(self, x, y=None):
        return self.a(x) if y is None else self.a(x * 2) + y


class AskedForAList(Two):
    def forward(self, x, y):
        return self.a(x * 2 if isinstance(y, list) else x) + y


class AskedForADict(Two):
    def forward(self, x, y):
        return self.a(x * 2 if isinstance(y, dict) else x) + y


class AskedForASize(Two):
    def forward(self, x, y):
        return self.a(x * 2 if y is not None and y.shape[0] > 3 else x) + 0


class AskedToBeTheSame(Two):
    def forward(self, x, y):
        return self.a(-x if y is x else x)


class AskedInAHelper(Two):
    def forward(self, x, y):
        return self.a(_twice_unless_none(x, y))


def _twice_unless_none(x, y):
    return x if y is None else x * 2


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (AskedForNone, None),
        (AskedForAList, [1]),
        (AskedForADict, {}),
        (AskedForASize, torch.rand(5, 8)),
        (AskedToBeTheSame, X),
        (AskedInAHelper, None),
    ],
)
def test_what_code_goes_by_is_checked(kind, other):
    model = kind().eval()
    extractor = fxfeat.create_feature_extractor(model, ["a"], example_inputs=(X, Y))
    seen = []
    model.a.register_forward_hook(lambda module, args, result: seen.append(result.clone()))
    model(X, Y)
    assert torch.equal(extractor(X, Y)["a"], seen[0])
    with pytest.raises(fxfeat.GuardError):
        extractor(X, other)


class Summed(Two):
    def forward(self, x, y=None):
        return self.a(x) if y is None else self.a(x + y.to(x.dtype))


def test_none_in_place_of_a_tensor_whose_dtype_is_checked():
    model = Summed().eval()
    extractor = fxfeat.create_feature_extractor(model, ["a", "output"], example_inputs=(X, Y))
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(X)
    assert str(error.value) == (
        "This input takes another path than the recorded one: at the call: `isinstance(y, torch.Tensor)` the recording "
        "saw True, this input gives False. Create the extractor again with example_inputs= like this input."
    )
