"""How a model takes its arguments: as many as it likes, named, with defaults, in lists and dicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, run, same, tap

X, Y, Z = torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4)
LONGER = torch.randn(5, 4)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)


class Many(Base):
    def forward(self, *tensors):
        total = sum(self.linear(tensor) for tensor in tensors)
        return total


class Named(Base):
    def forward(self, x, **others):
        y = self.linear(x)
        for name in sorted(others):
            y = y + others[name]
        tap("result", y)
        return y


class KeywordOnly(Base):
    def forward(self, x, *, y, scale=2.0):
        z = self.linear(x) * scale + y
        tap("add", z)
        return z


class Defaults(Base):
    def forward(self, x, mask=None, scale=1.5, flag=True):
        y = self.linear(x)
        if mask is not None:
            y = y.masked_fill(mask == 0, 0.0)
        if flag:
            y = y * scale
        return self.last(y)

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)


class PositionalOnly(Base):
    def forward(self, x, /, y):
        z = self.linear(x) + y
        tap("add", z)
        return z


class ListOfTensors(Base):
    def forward(self, images):
        y = self.linear(torch.stack(images))
        tap("linear_alias", y)
        return y.sum(0)


class DictOfTensors(Base):
    def forward(self, batch):
        y = self.linear(batch["x"]) + batch.get("y", 0)
        tap("add", y)
        return y


class Nested(Base):
    def forward(self, pair, extra=None):
        (a, b), scale = pair
        y = self.linear(a) + b * scale
        tap("add", y)
        if extra:
            y = y + extra["z"]
        return y


class IsTensor(Base):
    def forward(self, x):
        if isinstance(x, torch.Tensor) and torch.is_tensor(x):
            return self.linear(x)
        return self.linear(torch.stack(list(x)))


class Flagged(Base):
    """An argument that is no tensor decides."""

    def forward(self, x, depth: int = 1, kind: str = "relu"):
        for _ in range(depth):
            x = getattr(torch, kind)(self.linear(x))
        return x


def test_any_number_of_positional_arguments():
    assert_equals_eager(Many(), ["linear", "linear@1", "output"], (X, Y), (LONGER, LONGER))


def test_another_number_of_positional_arguments_is_refused():
    extractor = fxfeat.create_feature_extractor(Many(), ["output"], example_inputs=(X, Y))
    for inputs in ((X,), (X, Y, Z)):
        with pytest.raises(fxfeat.GuardError):
            extractor(*inputs)


def test_any_named_arguments():
    assert_equals_eager(Named(), ["linear", "output"], {"x": X, "b": Y, "a": Z})


def test_other_named_arguments_are_refused():
    extractor = fxfeat.create_feature_extractor(Named(), ["output"], example_inputs={"x": X, "b": Y})
    with pytest.raises(fxfeat.GuardError):
        extractor(x=X, a=Y)
    with pytest.raises(fxfeat.GuardError):
        extractor(x=X)


def test_keyword_only_arguments():
    assert_equals_eager(KeywordOnly(), ["linear", "add"], {"x": X, "y": Y})
    assert_equals_eager(KeywordOnly(), ["linear", "add"], {"x": X, "y": Y, "scale": 3.0})


def test_a_number_other_than_the_recorded_one_is_eagers_or_refused():
    model = KeywordOnly()
    extractor = fxfeat.create_feature_extractor(model, ["add"], example_inputs={"x": X, "y": Y})
    try:
        found = extractor(X, y=Y, scale=4.0)["add"]
    except fxfeat.GuardError:
        return
    assert same(found, model(X, y=Y, scale=4.0))


def test_positional_only_arguments():
    assert_equals_eager(PositionalOnly(), ["linear", "add"], (X, Y))


def test_a_mask_not_given():
    model = Defaults()
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=X)
    assert same(extractor(X)["last"], model(X))
    assert same(extractor(X, None)["last"], model(X))
    with pytest.raises(fxfeat.GuardError):
        extractor(X, (Y > 0).long())


def test_a_mask_given():
    model, mask = Defaults(), (Y > 0).long()
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=(X, mask))
    for other in (mask, 1 - mask):
        assert same(extractor(X, other)["last"], model(X, other))
        assert same(extractor(X, mask=other)["last"], model(X, mask=other))


def test_a_mask_left_out_where_one_was_recorded_is_refused():
    extractor = fxfeat.create_feature_extractor(Defaults(), ["last"], example_inputs=(X, (Y > 0).long()))
    with pytest.raises(fxfeat.GuardError):
        extractor(X)


def test_defaults_are_kept():
    assert_equals_eager(Defaults(), ["linear", "last"], X, (LONGER,))
    assert_equals_eager(Defaults(), ["linear", "last"], {"x": X, "scale": 2.5, "flag": False})


def test_a_flag_the_other_way_is_refused():
    model = Defaults()
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=X)
    with pytest.raises(fxfeat.GuardError) as caught:
        extractor(X, flag=False)
    assert "flag = True" in str(caught.value)


def test_concrete_args():
    model = Defaults()
    extractor = fxfeat.create_feature_extractor(model, ["last"], concrete_args={"flag": False}, example_inputs=X)
    assert same(extractor(X, flag=False)["last"], model(X, flag=False))


def test_a_list_of_tensors():
    assert_equals_eager(ListOfTensors(), ["linear", "output"], ([X, Y],), ([Z, X],))


def test_a_list_of_another_length_is_refused():
    extractor = fxfeat.create_feature_extractor(ListOfTensors(), ["output"], example_inputs=([X, Y],))
    with pytest.raises(fxfeat.GuardError):
        extractor([X, Y, Z])


def test_a_dict_of_tensors():
    assert_equals_eager(DictOfTensors(), ["linear", "add"], ({"x": X, "y": Y},), ({"x": LONGER, "y": LONGER},))
    assert_equals_eager(DictOfTensors(), ["linear", "add"], ({"x": X},))


def test_a_dict_with_other_keys_is_refused():
    extractor = fxfeat.create_feature_extractor(DictOfTensors(), ["add"], example_inputs=({"x": X},))
    with pytest.raises(fxfeat.GuardError):
        extractor({"x": X, "y": Y})


def test_nested_arguments():
    assert_equals_eager(Nested(), ["linear", "add", "output"], (((X, Y), Z), {"z": Z}))
    assert_equals_eager(Nested(), ["linear", "add", "output"], (((X, Y), Z),))


def test_isinstance_of_a_tensor():
    assert_equals_eager(IsTensor(), ["linear"], X, LONGER)
    assert_equals_eager(IsTensor(), ["linear"], ([X, Y],))


def test_an_argument_that_decides():
    assert_equals_eager(Flagged(), ["output"], {"x": X, "depth": 3, "kind": "tanh"})
    extractor = fxfeat.create_feature_extractor(Flagged(), ["output"], example_inputs={"x": X, "depth": 2})
    for others in ({"depth": 3}, {"kind": "tanh"}):
        with pytest.raises(fxfeat.GuardError):
            run(extractor, {"x": X, **others})


def test_example_inputs_that_do_not_fit():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(PositionalOnly(), ["add"], example_inputs=X)
    assert str(caught.value) == (
        "example_inputs do not fit PositionalOnly.forward(x, /, y): missing a required argument: 'y'. Pass others."
    )


def test_example_inputs_of_a_wrong_type():
    with pytest.raises(fxfeat.RequestError) as caught:
        fxfeat.create_feature_extractor(Many(), ["output"], example_inputs=[X])
    assert str(caught.value) == (
        "example_inputs is a list; it must be a tensor, a tuple of positional arguments or a dict of keyword arguments."
        " For one argument that is a list, write example_inputs=([...],)."
    )


def test_example_inputs_of_a_size_that_fails():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(IsTensor().eval(), ["linear"], example_inputs=torch.zeros(2, 5))
    message = str(caught.value)
    assert message.startswith(
        "IsTensor could not be recorded in eval mode with inputs ((2, 5) float32): RuntimeError: "
    )
    assert message.endswith(" If it needs other inputs, pass example_inputs=.")


def test_no_example_to_work_out():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(nn.Sequential(nn.ReLU()), ["0"])
    assert str(caught.value) == (
        "fxfeat found no convolution, embedding, recurrent or linear layer in Sequential to work an example input out "
        "from. Pass example_inputs=, for instance example_inputs=torch.rand(2, 3, 224, 224)."
    )


class Cuts(nn.Module):
    def forward(self, given):
        x, rows = given
        return x[rows] * 2


def test_a_slice_beside_a_tensor_is_checked():
    x = torch.arange(12.0).view(4, 3)
    extractor = fxfeat.create_feature_extractor(Cuts(), ["mul"], example_inputs=((x, slice(0, 2)),))
    assert torch.equal(extractor((x, slice(0, 2)))["mul"], x[:2] * 2)
    with pytest.raises(fxfeat.GuardError, match="stop = 2"):
        extractor((x, slice(0, 3)))


# -- arguments that code changes, or uses up ---------------------------------------------------------------------------


class Grows(Base):
    def forward(self, x, cache):
        cache.append(self.linear(x))
        return torch.cat(cache)


class Replaces(Base):
    def forward(self, x, cache):
        cache["last"] = self.linear(x) + cache["last"]
        return cache["last"]


class Sums(Base):
    def forward(self, parts):
        return sum(self.linear(part) for part in parts)


@pytest.mark.parametrize(
    ("kind", "cache"), [(Grows, lambda: [X.clone()]), (Grows, list), (Replaces, lambda: {"last": X})]
)
def test_a_container_that_code_changes_is_changed(kind, cache):
    model, given = kind(), cache()
    with pytest.warns(UserWarning, match="its code changes a list or dict that it is given"):
        extractor = fxfeat.create_feature_extractor(model, ["linear", "output"], example_inputs=(X, given))
    assert len(given) == len(cache())
    mine, theirs = cache(), cache()
    for x in (X, Y, Z):
        assert same(extractor(x, mine)["output"], model(x, theirs))
    assert len(mine) == len(theirs)


def test_a_container_that_code_changes_is_not_written_out():
    with pytest.raises(fxfeat.TraceError, match="its code changes a list or dict that it is given"):
        fxfeat.create_feature_extractor(Grows(), ["output"], example_inputs=(X, [Y]), engine="code")


@pytest.mark.parametrize("engine", ["auto", "code"])
def test_an_iterator_is_refused(engine):
    with pytest.raises(fxfeat.TraceError) as raised:
        fxfeat.create_feature_extractor(Sums(), ["output"], example_inputs=(iter([X, Y]),), engine=engine)
    assert str(raised.value) == (
        "The argument 'parts' is a list_iterator, which a single run uses up. Pass a list or a tuple, in "
        "example_inputs= and to the extractor."
    )


class Resizes(Base):
    def forward(self, x, size, dim=1):
        return self.linear(x).reshape(size).sum(dim)


@pytest.mark.parametrize("engine", ["auto", "tap"])
def test_numbers_named_like_methods(engine):
    model, example = Resizes(), (X, (2, 2, 2), 2)
    extractor = fxfeat.create_feature_extractor(model, ["linear", "output"], example_inputs=example, engine=engine)
    assert same(extractor(*example)["output"], model(*example))
