"""``extractor.optimize``: norms folded, identities dropped, and nothing else changed."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from fxfeat.deploy.optimization import Step

IMAGE = torch.rand(2, 3, 8, 8)
optimize_module = importlib.import_module("fxfeat.deploy.optimize")
NEAR = 1e-5
"""Folding changes the order in which float32 is rounded."""


def draw_norms(model):
    """Draw statistics, weights and biases: on a fresh norm, leaving it out hardly shows."""
    torch.manual_seed(0)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Dropout()

    def forward(self, x):
        return x + self.drop(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Identity(), nn.ReLU())
        self.block = Block()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 5), nn.BatchNorm1d(5, affine=False))

    def forward(self, x):
        return self.head(self.block(self.stem(x)))


def optimized(model, names, x=IMAGE, **options):
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=x)
    return extractor, *extractor.optimize(x, memory_format="contiguous", **options)


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch):
    """Let no step lose by chance."""
    monkeypatch.setattr(optimize_module, "time_in_turn", lambda *ways: [way() and 1.0 for way in ways])


def assert_near(extractor, faster, x=IMAGE):
    expected, actual = extractor(x), faster(x)
    assert expected.keys() == actual.keys()
    for key, value in expected.items():
        assert (value - actual[key]).abs().max() <= NEAR * value.abs().max()


def test_norms_inside_whole_modules_are_folded_and_identities_dropped():
    model = draw_norms(Net())
    extractor, faster, report = optimized(model, ["block", "output"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert_near(extractor, faster)
    assert [line.strip() for line in faster.code.splitlines() if "check(" not in line and "import" not in line][2:] == [
        "def forward(self, x):",
        "x = self.stem[0](x)",
        "x = self.stem[3](x)",
        "conv = self.block.conv(x)",
        "block = x + conv",
        "head_0 = self.head[0](block)",
        "output = self.head[1](head_0)",
        "return {'block': block, 'output': output}",
    ]
    assert [step.what for step in report.steps] == [
        "3 norms folded into the layers in front of them",
        "2 identities and dropouts dropped",
    ]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(value < NEAR for value in report.differences.values())


def test_a_value_between_that_is_a_feature_keeps_its_norm():
    model = draw_norms(Net())
    extractor, faster, report = optimized(model, ["block.conv", "block"])
    assert report.steps[0] == Step("1 norms folded into the layers in front of them", True)
    assert "self.block.norm(" in faster.code
    assert_near(extractor, faster)


class ReadsBetween(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class CallsTwice(ReadsBetween):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(x)


class NormsTwice(ReadsBetween):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 4, 3)
        self.other.weight = self.conv.weight

    def forward(self, x):
        return self.norm(self.conv(x)) + self.other(x)


class IsParametrized(ReadsBetween):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.conv)

    def forward(self, x):
        return self.norm(self.conv(x))


class HasAHook(ReadsBetween):
    def __init__(self):
        super().__init__()
        self.conv.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x):
        return self.norm(self.conv(x))


class StaysInTrainMode(ReadsBetween):
    def train(self, mode=True):
        super().train(mode)
        self.norm.training = True
        return self

    def forward(self, x):
        return self.norm(self.conv(x))


class NormsByTheBatch(ReadsBetween):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.conv(x))


class NormsARowOfLinear(nn.Module):
    example = torch.rand(2, 4, 3)

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.linear(x))


class TransposesInGroups(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(self.conv(x))


UNFOLDED = (
    *(ReadsBetween, CallsTwice, NormsTwice, IsParametrized, HasAHook, StaysInTrainMode, NormsByTheBatch),
    *(NormsARowOfLinear, TransposesInGroups),
)


@pytest.mark.parametrize("kind", UNFOLDED)
def test_what_must_not_be_folded(kind):
    x = getattr(kind, "example", IMAGE)
    extractor, faster, report = optimized(draw_norms(kind()), ["output"], x)
    assert not any("folded" in step.what for step in report.steps)
    assert torch.equal(extractor(x)["output"], faster(x)["output"])


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(
            F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)
        )


class DropsAlways(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout()

    def train(self, mode=True):
        super().train(mode)
        self.drop.training = True
        return self

    def forward(self, x):
        return self.drop(x) + 1


def test_dropout_that_is_on_in_eval_mode_stays():
    _, faster, report = optimized(draw_norms(DropsAlways()), ["output"])
    assert report.steps == () and (faster(IMAGE)["output"] == 1).any()


FOLDED = {
    "a norm of the model's own": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), OwnNorm(4)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)),
    "groups": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)),
    "in three dimensions": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)),
}


@pytest.mark.parametrize("kind", FOLDED)
def test_what_is_folded(kind):
    extractor, faster, report = optimized(draw_norms(FOLDED[kind]()), ["output"])
    assert report.steps[0] == Step("1 norms folded into the layers in front of them", True)
    assert_near(extractor, faster)


def test_without_folding_every_bit_stays():
    extractor, faster, _ = optimized(draw_norms(Net()), ["block", "output"], fold=False)
    assert all(torch.equal(value, faster(IMAGE)[key]) for key, value in extractor(IMAGE).items())


def test_another_dtype():
    _, faster, report = optimized(draw_norms(Net()), ["block"], dtype=torch.bfloat16)
    assert faster(IMAGE.bfloat16())["block"].dtype == torch.bfloat16
    assert report.steps[0] == Step("in torch.bfloat16", True)


def test_a_step_that_loses_is_undone(monkeypatch):
    monkeypatch.setattr(optimize_module, "time_in_turn", lambda *ways: [1.0, 1.5])
    extractor, faster, report = optimized(draw_norms(Net()), ["block"])
    assert [(step.kept, step.why) for step in report.steps] == [(False, "1.50 of the time")] * 2
    assert torch.equal(faster(IMAGE)["block"], extractor(IMAGE)["block"])


def test_channels_last_where_it_wins(monkeypatch):
    monkeypatch.setattr(optimize_module, "time_in_turn", lambda *ways: [1.0, 0.5])
    extractor = fxfeat.create_feature_extractor(draw_norms(Net()), ["block"], example_inputs=IMAGE)
    faster, report = extractor.optimize()
    assert faster(IMAGE)["block"].is_contiguous(memory_format=torch.channels_last)
    assert report.steps[-1] == Step("channels last", True, "0.50 of the time")
    assert_near(extractor, faster)


def test_there_is_no_train_mode():
    _, faster, _ = optimized(draw_norms(Net()), ["block"])
    with pytest.raises(fxfeat.TraceError) as raised:
        faster.train()(IMAGE)
    assert str(raised.value) == "This extractor of Net was optimized for inference and has no train mode."


def test_an_unknown_memory_format():
    extractor = fxfeat.create_feature_extractor(draw_norms(Net()), ["block"], example_inputs=IMAGE)
    with pytest.raises(fxfeat.RequestError) as raised:
        extractor.optimize(memory_format="nhwc")
    assert str(raised.value) == "memory_format is 'nhwc'; it must be 'auto', 'channels_last' or 'contiguous'."


def test_it_is_saved_compiled_and_copied(tmp_path):
    extractor, faster, _ = optimized(draw_norms(Net()), ["block"], compile="default")
    assert_near(extractor, torch.compile(faster, fullgraph=True, backend="aot_eager"))
    assert torch.equal(copy.deepcopy(faster)(IMAGE)["block"], faster(IMAGE)["block"])


def test_the_report_as_text():
    _, _, report = optimized(draw_norms(Net()), ["block"], fold=False)
    lines = str(report).splitlines()
    assert lines[0].split() == ["step", "kept", "note"]
    assert lines[-1] == "1000.00 ms before, 1000.00 ms after: 1.00 of the time"


def test_a_norm_behind_a_linear_layer_is_folded_for_rows_alone():
    model = draw_norms(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    _, faster, _ = optimized(model, ["output"], torch.rand(3, 4))
    with pytest.raises(fxfeat.GuardError, match="`the norm behind it is folded into it` the recording saw 2"):
        faster(torch.rand(3, 4, 4))


def test_what_cannot_be_copied_is_named():
    with pytest.warns(FutureWarning):
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.ReLU()).eval()
    extractor = fxfeat.create_feature_extractor(model, ["1"], example_inputs=torch.rand(2, 4))
    model(torch.rand(2, 4))
    with pytest.raises(fxfeat.TraceError, match="Sequential cannot be copied, which this takes: Only Tensors created"):
        extractor.optimize()
