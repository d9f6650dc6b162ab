"""Gradients by a feature that is overwritten later are those that a hook gives which hands a clone on in its place."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxfeat
from tests.oracle import assert_equals_eager, assert_gradients_equal, same

IMAGE = torch.rand(2, 3, 9, 9)


class Convs(nn.Module):
    """Three convolutions, and what comes between them as the subclass says."""

    overwritten: tuple[str, ...] = ("conv", "second")

    def __init__(self):
        super().__init__()
        self.conv, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3)
        self.relu = nn.ReLU(inplace=True)


class WholeReLU(Convs):
    def forward(self, x):
        return self.head(self.relu(self.second(self.relu(self.conv(x)))))


class FunctionalReLU(Convs):
    def forward(self, x):
        return self.head(F.relu(self.second(F.relu_(self.conv(x))), inplace=True))


class MethodStatement(Convs):
    def forward(self, x):
        x = self.conv(x)
        x.relu_()
        x = self.second(x)
        x.sigmoid_()
        return self.head(x)


class Residual(Convs):
    def forward(self, x):
        x = self.relu(self.conv(x))
        y = self.second(x)
        y += x
        return self.head(self.relu(y))


class ResidualMethod(Convs):
    overwritten = ("second",)

    def forward(self, x):
        x = self.conv(x)
        return self.head(self.second(x).add_(x).relu_())


class SeveralTimes(Convs):
    def forward(self, x):
        x = self.conv(x)
        x.mul_(2)
        y = self.second(x * 1)
        x.add_(y)
        y.sub_(x).relu_()
        return self.head(x + y)


class UsedBeforeAndBehind(Convs):
    def forward(self, x):
        x = self.conv(x)
        y = self.second(x * 3) + x * 2
        x.clamp_(min=0.1)
        return self.head(x * y)


class ViewWritten(Convs):
    def forward(self, x):
        x = self.conv(x)
        x.flatten(2)[:, 1:3].mul_(2)
        y = self.second(x)
        y.view(-1)[1:30] = 7.0
        return self.head(y)


class SliceWritten(Convs):
    def forward(self, x):
        x = self.conv(x)
        x[:, :2] = 0
        y = self.second(x)
        y[:, 1] *= x[:, 2]
        return self.head(y)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(x)
        return self.conv(x) + x


class InsideWhole(Convs):
    """What overwrites the features is deep inside modules that stay whole."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Sequential(Inner(), Inner()), Inner()

    def forward(self, x):
        return self.head(self.last(self.second(self.first(self.conv(x)))))


class Turned(Convs):
    """What the features look at is a turned view, as in channels-last networks."""

    def __init__(self):
        super().__init__()
        self.conv, self.second = nn.Sequential(self.conv, Turn()), nn.Sequential(self.second, Turn())

    def forward(self, x):
        x = self.second(self.conv(x).relu_().transpose(1, 3))
        return self.head(x.mul_(2).transpose(1, 3))


class Turn(nn.Module):
    def forward(self, x):
        return x.transpose(1, 3)


class ThroughDropout(Convs):
    def __init__(self):
        super().__init__()
        self.drop, self.same = nn.Dropout(0.5, inplace=True), nn.Identity()

    def forward(self, x):
        return self.head(self.relu(self.second(self.same(self.drop(self.conv(x))))))


class WithoutGradients(Convs):
    """The write itself is on no path of a gradient."""

    def forward(self, x):
        x = self.conv(x)
        with torch.no_grad():
            x.mul_(2)
        y = self.second(x)
        y.data.clamp_(min=0)
        return self.head(x * y)


class Checkpointed(Convs):
    def forward(self, x):
        x = self.relu(self.conv(x))
        return self.head(checkpoint(self.run, x, use_reentrant=False))

    def run(self, x):
        return self.relu(self.second(x))


KINDS = [
    *(WholeReLU, FunctionalReLU, MethodStatement, Residual, ResidualMethod, SeveralTimes, UsedBeforeAndBehind),
    *(ViewWritten, SliceWritten, InsideWhole, Turned, ThroughDropout, WithoutGradients, Checkpointed),
]


def run_with_clones_handed_on(model, names, x):
    """Run a model with hooks that keep what modules return, and hand a clone of it on where it is overwritten."""
    kept = {}

    def hook(name):
        def keep(module, args, result):
            kept[name] = result
            return result.clone() if name in model.overwritten else None

        return keep

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    torch.manual_seed(0)
    output = model(x)
    for handle in handles:
        handle.remove()
    return {**kept, "output": output}


def gradients(model, values):
    """Return the gradients of a loss by features and by parameters, where the loss looks at the features, too."""
    features = [value for name, value in values.items() if name != "output"]
    loss = (values["output"] ** 2).sum()
    by_features = torch.autograd.grad(loss, features, retain_graph=True)
    weighted = sum((value * torch.linspace(-1, 1, value.numel()).reshape(value.shape)).sum() for value in features)
    return by_features + torch.autograd.grad(loss + weighted, list(model.parameters()))


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_gradients_by_features_that_are_overwritten(kind, training, flatten):
    torch.manual_seed(0)
    model = kind().train(training)
    reference, names = copy.deepcopy(model), ["conv", "second"]
    extractor = fxfeat.create_feature_extractor(model, [*names, "output"], example_inputs=IMAGE, flatten=flatten)
    expected = run_with_clones_handed_on(reference, names, IMAGE)
    torch.manual_seed(0)
    values = extractor(IMAGE)
    for name, value in expected.items():
        assert same(values[name], value), name
    for mine, theirs in zip(gradients(extractor, values), gradients(reference, expected), strict=True):
        assert same(mine, theirs), extractor.code


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_values_and_gradients_by_parameters_are_eagers(kind):
    torch.manual_seed(0)
    assert_equals_eager(kind(), ["conv", "second", "output"], IMAGE, torch.rand(1, 3, 12, 11))
    assert_gradients_equal(kind(), ["conv", "second", "output"], IMAGE)


# -- what is not alone in its memory -----------------------------------------------------------------------------------


class ViewLivesOn(Convs):
    """A view that was taken before the feature was there sees what is written."""

    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        x, rows = self.pair(self.conv(x))
        x.mul_(2)
        return self.head(x * rows.sum())


class Pair(nn.Module):
    def forward(self, x):
        return x, x[0]


class PartWritten(Convs):
    def __init__(self):
        super().__init__()
        self.part = Part()

    def forward(self, x):
        x = self.conv(x)
        y = self.part(x)
        y.mul_(2)
        return self.head(x) + y.sum()


class Part(nn.Module):
    def forward(self, x):
        return x[:1]


class PerhapsOne(Convs):
    """What is written may be the value that is used later, on an input that lies in memory that way."""

    def __init__(self):
        super().__init__()
        self.packed = Packed()

    def forward(self, x):
        x = self.conv(x)[:, :2]
        y = self.packed(x)
        y.mul_(2)
        return (x + y).sum(1)


class Packed(nn.Module):
    def forward(self, x):
        return x.contiguous()


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(2, 4, 7, 7))

    def forward(self, x):
        with torch.no_grad():
            self.total += x
        return self.total


class OfTheModel(Convs):
    def __init__(self):
        super().__init__()
        self.keeps = Keeps()

    def forward(self, x):
        x = self.conv(x)
        y = self.keeps(x)
        return self.head(x * y)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (ViewLivesOn, ["pair[0]", "pair[1]", "conv"]),
        (PartWritten, ["part", "conv"]),
        (PerhapsOne, ["packed", "conv"]),
        (OfTheModel, ["keeps", "conv"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_that_share_memory_with_what_is_used_later(kind, names):
    torch.manual_seed(0)
    others = () if kind is OfTheModel else (torch.rand(1, 3, 12, 11), torch.rand(1, 3, 9, 9))
    assert_equals_eager(kind(), [*names, "output"], IMAGE, *others)
    assert_gradients_equal(kind(), ["conv", "output"], IMAGE)


def test_a_feature_that_is_a_part_of_what_is_used_later_is_on_no_path():
    values = fxfeat.create_feature_extractor(PartWritten(), ["part", "output"], example_inputs=IMAGE)(IMAGE)
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        torch.autograd.grad(values["output"].sum(), values["part"])


def test_what_comes_behind_the_feature_works_on_the_clone():
    extractor = fxfeat.create_feature_extractor(WholeReLU(), ["conv", "second", "head"], example_inputs=IMAGE)
    assert extractor.code == (
        "import torch\n\n\n"
        "def forward(self, x):\n"
        "    conv = self.conv(x)\n"
        "    x = torch.clone(conv)\n"
        "    x = self.relu(x)\n"
        "    second = self.second(x)\n"
        "    x = torch.clone(second)\n"
        "    x = self.relu(x)\n"
        "    head = self.head(x)\n"
        "    return {'conv': conv, 'second': second, 'head': head}\n"
    )
