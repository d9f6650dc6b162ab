"""Classes that see to the dtypes of their tensors: followed where they stay whole, refused where they are opened."""

import copy
import pickle
import types

import pytest
import torch
from torch import nn

import fxfeat

X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("turns", torch.linspace(0, 1000, 4))

    def forward(self, x):
        return self.layer((x.float() * self.turns.float().cos()).to(self.layer.weight.dtype)) + 1


class KeepsBuffer(Block):
    def _apply(self, fn, recurse=True):
        turns = self.turns
        super()._apply(fn, recurse)
        self.turns = turns
        return self


class KeepsLayer(Block):
    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.layer.float()
        return self


class BufferIsNeverHalf(Block):
    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.turns = self.turns.float() if self.turns.dtype == torch.float16 else self.turns
        return self


class ConvertsPlainTensor(Block):
    def __init__(self):
        super().__init__()
        self.plain = torch.ones(4)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.plain = fn(self.plain)
        return self

    def forward(self, x):
        return super().forward(x) * self.plain


def on_the_object():
    block = Block()

    def apply(self, fn, recurse=True):
        turns = self.turns
        nn.Module._apply(self, fn, recurse)
        self.turns = turns
        return self

    block._apply = types.MethodType(apply, block)
    return block


class Moved(Block):
    def _apply(self, fn, recurse=True):
        self.applied = True
        return super()._apply(fn, recurse)


class Asks(Block):
    def half(self):
        if self.layer.weight.dtype == torch.int8:
            raise ValueError("is quantised")
        return super().half()

    def to(self, *args, **kwargs):
        return super().to(*args, **kwargs)


class RootHalf(Block):
    def half(self):
        super().half()
        self.turns = self.turns.float()
        return self


class RootTo(Block):
    def to(self, *args, **kwargs):
        turns = self.turns
        super().to(*args, **kwargs)
        self.turns = turns
        return self


CONVERSIONS = {
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "double": lambda module: module.double(),
    "to": lambda module: module.to(torch.bfloat16),
    "to both": lambda module: module.to("cpu", torch.float16),
    "type": lambda module: module.type(torch.float16),
}


def build(block, names=("0.layer", "output")):
    torch.manual_seed(0)
    model = nn.Sequential(block, nn.Linear(4, 2)).eval() if "0.layer" in names or "1" in names else block.eval()
    return model, fxfeat.create_feature_extractor(model, list(names), example_inputs=X)


def message(name):
    return (
        f"{name} converts its tensors to other dtypes in a way of its own, and its code is written out, so that this "
        "would not run. Convert the model, and create the extractor again."
    )


OWN = [KeepsBuffer, KeepsLayer, BufferIsNeverHalf, ConvertsPlainTensor, on_the_object]


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("make", OWN)
def test_a_conversion_of_an_opened_class_is_refused(make, conversion):
    model, extractor = build(make())
    expected = extractor(X)["output"]
    with pytest.raises(fxfeat.RequestError) as error:
        CONVERSIONS[conversion](extractor)
    assert str(error.value) == message(type(model[0]).__name__)
    assert torch.equal(extractor(X)["output"], expected)


@pytest.mark.parametrize("make", [*OWN, RootHalf, RootTo])
def test_a_conversion_of_the_root_is_refused(make):
    model, extractor = build(make(), ["layer", "output"])
    with pytest.raises(fxfeat.RequestError) as error:
        extractor.half()
    assert str(error.value) == message(type(model).__name__)


@pytest.mark.parametrize("make", OWN)
def test_devices_and_what_changes_no_dtype(make):
    _, extractor = build(make())
    extractor.cpu().float().to("cpu").to(torch.float32)
    extractor.to("meta")
    assert all(tensor.is_meta for tensor in extractor.parameters())


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("make", [Block, Moved, Asks, RootHalf, RootTo])
def test_classes_that_do_as_torch_does(make, conversion):
    model, extractor = build(make())
    twin = CONVERSIONS[conversion](copy.deepcopy(model))
    given = X.to(twin[1].weight.dtype)
    assert torch.equal(CONVERSIONS[conversion](extractor)(given)["output"], twin(given))


@pytest.mark.parametrize("make", [KeepsBuffer, KeepsLayer, on_the_object])
def test_modules_that_stay_whole_see_to_it_themselves(make):
    _, extractor = build(nn.Sequential(make(), nn.Linear(4, 4)), ["0.0", "0.1", "1"])
    assert extractor.half().get_submodule("0.0").turns.dtype == (torch.float16 if make is KeepsLayer else torch.float32)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4)

    def _apply(self, fn, recurse=True):
        return super()._apply(fn, recurse)

    def forward(self, x):
        return self.lstm(self.layer(x))[0]


def test_a_layer_inside_that_has_its_own_way_and_stays_whole():
    _, extractor = build(Recurrent(), ["layer", "output"])
    assert extractor.double()(X.double())["output"].dtype == torch.float64


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_and_modules_around_refuse_too(copied):
    _, extractor = build(KeepsBuffer())
    with pytest.raises(fxfeat.RequestError, match=r"^KeepsBuffer converts"):
        nn.Sequential(copied(extractor), nn.Linear(4, 4)).half()


def test_a_converted_model_is_wrapped_as_it_is():
    model = nn.Sequential(KeepsBuffer(), nn.Linear(4, 2)).eval().bfloat16()
    extractor = fxfeat.create_feature_extractor(model, ["0.layer", "1"], example_inputs=X.bfloat16())
    assert torch.equal(extractor(X.bfloat16())["1"], model(X.bfloat16()))
