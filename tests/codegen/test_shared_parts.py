"""Tensors and children of opened modules that are set anew on the model: followed, or an error that names them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import fxfeat

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.tail = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.shift, self.plain = nn.Parameter(torch.rand(4)), torch.rand(4)
        self.register_buffer("mask", torch.rand(4))

    def forward(self, x):
        x = self.stem(x) + self.shift + self.plain
        if self.mask is not None:
            x = x * self.mask
        for block in self.blocks:
            x = block(x)
        return self.tail(self.body(x))


def build(name="inner.body"):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("inner", Masked())
    return model.eval(), fxfeat.create_feature_extractor(model.eval(), [name], example_inputs=X)


def hooked(model, x=X, name="inner.body"):
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    model(x)
    handle.remove()
    return seen[0]


FOLLOWED = {
    "a buffer": lambda inner: setattr(inner, "mask", torch.ones(4)),
    "a parameter": lambda inner: setattr(inner, "shift", nn.Parameter(torch.ones(4))),
    "a plain tensor": lambda inner: setattr(inner, "plain", torch.ones(4)),
    "a buffer by register_buffer": lambda inner: inner.register_buffer("mask", torch.ones(4)),
    "all by load_state_dict": lambda inner: inner.load_state_dict(
        {name: tensor + 1 for name, tensor in inner.state_dict().items()}, assign=True
    ),
}


@pytest.mark.parametrize("what", FOLLOWED)
def test_a_tensor_that_is_set_anew_is_followed(what):
    model, extractor = build()
    before = extractor(X)["inner.body"]
    FOLLOWED[what](model.inner)
    expected = hooked(model)
    assert torch.equal(extractor(X)["inner.body"], expected) and not torch.equal(before, expected)
    FOLLOWED[what](model.inner)
    assert torch.equal(extractor(X)["inner.body"], hooked(model))


def test_another_dtype_of_all_is_followed():
    model, extractor = build()
    model.double().inner.plain = model.inner.plain.double()
    x = X.double()
    assert torch.equal(extractor(x)["inner.body"], hooked(model, x))


REFUSED = {
    "mask": (
        lambda inner: setattr(inner, "mask", None),
        "'mask' of 'inner' (Masked) was a float32 Tensor of shape (4,) when the extractor was made, which still has "
        "it, and is None now: the code around it is written out. Create the extractor again, or set it back.",
    ),
    "deleted": (
        lambda inner: delattr(inner, "plain"),
        "'plain' of 'inner' (Masked) was a float32 Tensor of shape (4,) when the extractor was made, which still has "
        "it, and is None now: the code around it is written out. Create the extractor again, or set it back.",
    ),
    "shape": (
        lambda inner: setattr(inner, "mask", torch.ones(2, 4)),
        "'mask' of 'inner' (Masked) was a float32 Tensor of shape (4,) when the extractor was made, which still has "
        "it, and is a float32 Tensor of shape (2, 4) now: the code around it is written out. Create the extractor "
        "again, or set it back.",
    ),
    "child": (
        lambda inner: setattr(inner, "stem", nn.Identity()),
        "'stem' of 'inner' (Masked) was a Linear when the extractor was made, which still has it, and is another "
        "Identity now: the code around it is written out. Create the extractor again, or set it back.",
    ),
    "of a list": (
        lambda inner: inner.blocks.__setitem__(1, nn.Linear(4, 4)),
        "'1' of 'inner.blocks' (ModuleList) was a Linear when the extractor was made, which still has it, and is "
        "another Linear now: the code around it is written out. Create the extractor again, or set it back.",
    ),
    "appended": (
        lambda inner: inner.blocks.append(nn.Linear(4, 4)),
        "The children of 'inner.blocks' (ModuleList) were '0', '1', '2' when the extractor was made and are '0', '1', "
        "'2', '3' now: the code that goes through them is written out. Create the extractor again, or set it back.",
    ),
    "removed": (
        lambda inner: inner.blocks.pop(2),
        "'2' of 'inner.blocks' (ModuleList) was a Linear when the extractor was made, which still has it, and is None "
        "now: the code around it is written out. Create the extractor again, or set it back.",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_until_it_is_set_back(what):
    model, extractor = build()
    expected = extractor(X)["inner.body"]
    change, message = REFUSED[what]
    kept = copy.copy(model.inner.__dict__), model.inner._buffers.copy(), model.inner._modules.copy()
    blocks = model.inner.blocks._modules.copy()
    change(model.inner)
    for _ in range(2):
        with pytest.raises(fxfeat.GuardError) as error:
            extractor(X)
        assert str(error.value) == message
    model.inner.__dict__.update(kept[0])
    model.inner._buffers.update(kept[1])
    model.inner._modules.update(kept[2])
    model.inner.blocks._modules.clear()
    model.inner.blocks._modules.update(blocks)
    assert torch.equal(extractor(X)["inner.body"], expected)


def test_what_no_feature_needs_may_be_exchanged():
    model, extractor = build("inner.blocks.1")
    model.inner.tail, model.inner.body = nn.Identity(), nn.Linear(2, 9)
    model.inner.blocks.append(nn.Linear(4, 2))
    model.inner.blocks[2] = nn.Identity()
    assert torch.equal(extractor(X)["inner.blocks.1"], hooked(model, name="inner.blocks.1"))


def test_an_extractor_that_was_given_its_own_goes_its_own_way():
    model, extractor = build()
    extractor.double()
    extractor.inner.plain = extractor.inner.plain.double()
    expected = extractor(X.double())["inner.body"]
    model.inner.mask = torch.zeros(4)
    assert torch.equal(extractor(X.double())["inner.body"], expected)


def test_a_copy_follows_nothing():
    model, extractor = build()
    expected, twin = extractor(X)["inner.body"], copy.deepcopy(extractor)
    model.inner.mask = None
    assert torch.equal(twin(X)["inner.body"], expected)


def test_a_child_of_an_opened_child_is_watched():
    model, extractor = build()
    model.inner = copy.deepcopy(model.inner)
    with pytest.raises(fxfeat.GuardError, match=r"'inner' of the Sequential was a Masked when the extractor was made"):
        extractor(X)


class Doubles(nn.Module):
    def forward(self, weight):
        return weight * 2


def test_an_opened_child_that_is_gone_for_good_is_missed():
    model = Masked().eval()
    parametrize.register_parametrization(model.stem, "weight", Doubles())
    names = ["stem.parametrizations.weight.0", "body"]
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    parametrize.remove_parametrizations(model.stem, "weight")
    with pytest.raises(fxfeat.GuardError, match=r"'parametrizations' of 'stem' \(Linear\) was a ModuleDict when the"):
        extractor(X)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.mix, self.out = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x):
        return nn.functional.linear(self.mix(self.table(x)), self.out.weight)


@pytest.mark.parametrize("name", ["table", "out"])
def test_a_tensor_that_is_tied_no_longer_is_refused(name):
    model, x = Tied().eval(), torch.tensor([[1, 2]])
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=x)
    assert torch.equal(extractor(x)["output"], model(x))
    model.get_submodule(name).weight = nn.Parameter(torch.ones(5, 4))
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(x)
    assert str(error.value) == (
        "'weight' of 'table' (Embedding) and 'weight' of 'out' (Linear) were one tensor when the extractor was made, "
        "and are two now: the code that reads it is written out by one of the names. Create the extractor again, or "
        "set it back."
    )


class Asks(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last, self.way = nn.Linear(4, 4), nn.Linear(4, 4), nn.Identity()

    def forward(self, x):
        return self.last(self.inner(x) * (2.0 if isinstance(self.way, nn.Identity) else 3.0))


def test_a_child_that_is_only_asked_about_is_watched():
    model = Asks().eval()
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=X)
    assert torch.equal(extractor(X)["last"], model(X))
    model.way = nn.ReLU()
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(X)
    assert str(error.value) == (
        "'way' of the Asks is a ReLU now, another one than when the extractor was made, and the code that asked about "
        "it is written out as it was. Create the extractor again, or set it back."
    )
