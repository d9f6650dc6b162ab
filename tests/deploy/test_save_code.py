"""``extractor.save_code``: a file of plain PyTorch."""

from __future__ import annotations

import copy
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from fxfeat.deploy.save_code import load_code
from fxfeat.ir.tree import tensors

IMAGE = torch.rand(2, 3, 8, 8)


class Convolves(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)


class TiesWeights(nn.Module):
    example = torch.randint(0, 5, (2, 4))

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 6), nn.Linear(6, 5, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(6))
        self.again = self.scale

    def forward(self, x):
        return self.head(self.embed(x) * self.scale * self.again)


class KeepsBuffers(Convolves):
    def __init__(self):
        super().__init__()
        self.register_buffer("index", torch.arange(8).flip(0), persistent=False)
        self.register_buffer("window", torch.rand(3, 8, 8), persistent=False)
        self.register_buffer("shift", torch.rand(8))
        self.plain = torch.rand(8)

    def forward(self, x):
        return self.conv(x[..., self.index] * self.window + self.shift + self.plain)


class GoesByMode(Convolves):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout()

    def forward(self, x):
        x = self.norm(self.conv(x))
        return F.dropout(self.drop(x * 2 if self.training else x), 0.3, self.training)


class Recurs(nn.Module):
    example = torch.rand(2, 5, 3)

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
        self.gru, self.rnn = nn.GRU(8, 4), nn.RNN(4, 4, nonlinearity="relu")
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)

    def forward(self, x):
        x = self.rnn(self.gru(self.lstm(x)[0])[0])[0]
        return self.attention(x, x, x)[0]


class Encodes(nn.Module):
    example = torch.rand(2, 5, 8)

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x) + 1


class SharesModules(nn.Module):
    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(3, 3, 1)
        self.parts = nn.ModuleList([conv, nn.ReLU()])
        self.again = nn.ModuleDict({"a": conv})
        self.both = nn.Sequential(conv, nn.BatchNorm2d(3))

    def forward(self, x):
        return self.both(self.parts[1](self.parts[0](x)) + self.again["a"](x))


class IsHalf(Convolves):
    example = IMAGE.bfloat16()

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)
        self.bfloat16()
        self.conv.weight.requires_grad_(False)

    def forward(self, x):
        return self.norm(self.conv(x))


class IsParametrized(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.hooked = nn.Conv2d(4, 4, 1)
        self.hooked.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x):
        return self.hooked(self.conv(x))


class ReturnsStructures(Convolves):
    def forward(self, x):
        return {"a": self.conv(x), "b": [x + 1, (x * 2, x.shape[0])]}


class Draws(Convolves):
    def forward(self, x):
        return self.conv(x + torch.randn_like(x) * 0.1)


class HasManyKinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), nn.PReLU(4), nn.AdaptiveAvgPool2d((None, 3))),
            *(
                nn.Upsample(scale_factor=2.0, mode="bilinear"),
                nn.Flatten(2),
                nn.LayerNorm(96, bias=False),
                nn.Softmax(-1),
            ),
            *(
                nn.Unflatten(2, (16, 6)),
                nn.ConvTranspose2d(4, 4, (3, 5), stride=2, output_padding=1),
                nn.Hardtanh(-2, 2),
            ),
            *(nn.InstanceNorm2d(4, affine=True), nn.ZeroPad2d(2), nn.PixelShuffle(2), nn.LocalResponseNorm(2)),
            *(nn.LeakyReLU(0.2, True), nn.Threshold(0.1, 20), nn.MaxPool2d(2, ceil_mode=True), nn.GELU("tanh")),
        )

    def forward(self, x):
        return self.body(x)


MODELS = (
    *(TiesWeights, KeepsBuffers, GoesByMode, Recurs, Encodes, SharesModules, IsHalf, IsParametrized),
    *(ReturnsStructures, Draws, HasManyKinds),
)


def save(extractor, tmp_path, **options):
    extractor.save_code(tmp_path / "saved.py", **options)
    return (tmp_path / "saved.py").read_text()


def run(module, x):
    torch.manual_seed(1)
    return [tensor for _, tensor in tensors(module(x))]


@pytest.mark.parametrize("kind", MODELS)
def test_the_file_computes_the_same_in_each_mode(kind, tmp_path):
    torch.manual_seed(0)
    model, x = kind().eval(), getattr(kind, "example", IMAGE)
    extractor = fxfeat.create_feature_extractor(model, {"output": "all"}, example_inputs=x)
    plain = load_code(save(extractor, tmp_path))()
    assert plain.training is False
    plain.load_state_dict(extractor.state_dict(), strict=True)
    for training in (False, True):
        eager = copy.deepcopy(model).train(training)
        expected, actual = run(eager, x), run(plain.train(training), x)
        assert expected and all(map(torch.equal, expected, actual))
    frozen = [name for name, parameter in extractor.named_parameters() if not parameter.requires_grad]
    assert [name for name, parameter in plain.named_parameters() if not parameter.requires_grad] == frozen
    ties = {name for name, _ in extractor.named_parameters()}
    assert {name for name, _ in plain.named_parameters()} == ties


class Pads(Convolves):
    def forward(self, x, mask=None):
        if x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, 1))
        return torch.relu(self.conv(x))


def test_the_text_of_a_file(tmp_path):
    text = save(fxfeat.create_feature_extractor(Pads().eval(), ["relu"], example_inputs=IMAGE), tmp_path)
    above, _, below = text.partition("\n    def forward")
    assert above == textwrap.dedent(
        '''\
        """relu of Pads, written by fxfeat. The class to use is the last one."""

        import torch
        from torch import nn


        class PadsFeatures(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)
                self.eval()
        '''
    )
    lines = below.splitlines()
    assert lines[0] == "(self, x, mask=None):"
    assert [lines[1], lines[3], lines[4]] == [
        "        if mask is not None:",
        "        bool_1 = bool(x.shape[2] % 2)",
        "        if bool_1:",
    ]
    assert lines[-3:] == ["        x = self.conv(x)", "        relu = torch.relu(x)", "        return {'relu': relu}"]


def test_a_check_says_where_the_model_decided(tmp_path):
    plain = load_code(save(fxfeat.create_feature_extractor(Pads().eval(), ["relu"], example_inputs=IMAGE), tmp_path))()
    with pytest.raises(ValueError) as raised:
        plain(torch.rand(2, 3, 7, 8))
    where = f"{__file__}:{Pads.forward.__code__.co_firstlineno + 1}"
    assert str(raised.value) == (
        f"This input takes another path than the one written here, for which {where}: `if x.shape[2] % 2:` was False."
    )


def test_parts_of_a_given_model(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["1"], example_inputs=IMAGE)
    plain = load_code(save(extractor, tmp_path, modules="given"))(model)
    assert plain.get_submodule("0") is model[0] and torch.equal(plain(IMAGE)["1"], extractor(IMAGE)["1"])


def test_a_copy_needs_an_example(tmp_path):
    extractor = copy.deepcopy(fxfeat.create_feature_extractor(Pads().eval(), ["relu"], example_inputs=IMAGE))
    with pytest.raises(fxfeat.RequestError) as raised:
        save(extractor, tmp_path)
    assert str(raised.value) == (
        "This extractor is a copy, which remembers no example input. Pass example_inputs=, for instance "
        "example_inputs=torch.rand(2, 3, 224, 224)."
    )
    assert "torch.relu" in save(extractor, tmp_path, example_inputs=IMAGE)


def test_where_modules_come_from(tmp_path):
    extractor = fxfeat.create_feature_extractor(Pads().eval(), ["relu"], example_inputs=IMAGE)
    with pytest.raises(fxfeat.RequestError) as raised:
        save(extractor, tmp_path, modules="timm")
    assert str(raised.value) == "modules is 'timm'; it must be 'torch' or 'given'."


def test_what_runs_whole_with_hooks_is_named(tmp_path):
    extractor = fxfeat.create_feature_extractor(Pads().eval(), ["relu"], example_inputs=IMAGE, engine="tap")
    with pytest.raises(fxfeat.TraceError) as raised:
        save(extractor, tmp_path)
    assert str(raised.value) == (
        "Pads cannot be written out, for it runs whole: engine='tap' was asked for. Save the model's package along "
        "with the weights, or ask for features in front of it."
    )


class Doubles(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class CallsItsOwn(Convolves):
    def forward(self, x):
        return Doubles.apply(self.conv(x))


def test_what_another_package_brings_is_named(tmp_path):
    extractor = fxfeat.create_feature_extractor(CallsItsOwn().eval(), ["output"], example_inputs=IMAGE)
    with pytest.raises(fxfeat.TraceError) as raised:
        save(extractor, tmp_path)
    assert str(raised.value) == (
        "CallsItsOwn cannot be saved as code that needs torch alone, for fxfeat cannot look into what `from "
        "tests.deploy.test_save_code import Doubles` brings. Save it with modules='given', which goes on importing "
        "tests."
    )


def test_an_old_spectral_norm_is_named(tmp_path):
    model = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 1)), nn.ReLU()).eval()
    extractor = fxfeat.create_feature_extractor(model, ["1"], example_inputs=IMAGE)
    with pytest.raises(fxfeat.TraceError) as raised:
        save(extractor, tmp_path)
    assert str(raised.value) == (
        "'0' (Conv2d) cannot be written as a call of its class, for its attributes do not tell all that it was made "
        "with (nn.Conv2d(3, 4, 1) makes one with another '_forward_pre_hooks'). Save the code with modules='given', "
        "which takes the module as it is."
    )


@pytest.mark.parametrize("form", ["tuple", "list"])
def test_the_form_of_what_is_returned(form, tmp_path):
    extractor = fxfeat.create_feature_extractor(Pads().eval(), ["conv", "relu"], example_inputs=IMAGE, return_type=form)
    values = load_code(save(extractor, tmp_path))()(IMAGE)
    assert type(values).__name__ == form and len(values) == 2


class GoesThroughTime(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.cell = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x):
        steps, _ = self.gru(x)
        state = steps[:, 0]
        for time in range(steps.size(1)):
            state = self.cell(state + steps[:, time])
        return state


def test_a_count_that_an_extractor_checks_is_checked_where_it_is_part_of_a_model(tmp_path):
    x, longer = torch.rand(2, 3, 4), torch.rand(2, 5, 4)
    extractor = fxfeat.create_feature_extractor(GoesThroughTime().eval(), ["output"], example_inputs=x)
    plain = load_code(save(extractor, tmp_path))()
    with pytest.raises(ValueError, match="was 3"):
        plain(longer)
    inside = fxfeat.create_feature_extractor(nn.Sequential(extractor), ["0.cell@0"], example_inputs=x)
    with pytest.raises(fxfeat.GuardError, match="the recording saw 3, this input gives 5"):
        inside(longer)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.embed = nn.BatchNorm2d(3), nn.Embedding(4, 3, max_norm=0.1)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return self.norm(x) * self.count + self.embed(torch.tensor([1]))[0, 0]


@pytest.mark.parametrize("training", [True, False])
def test_saving_changes_neither_the_model_nor_random_numbers(training, tmp_path):
    model = Counts().train(training)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=IMAGE)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    save(extractor, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


class HasAnOutput(Convolves):
    def __init__(self):
        super().__init__()
        self.output = nn.ReLU()

    def forward(self, x):
        return self.output(self.conv(x)) + 1


def test_a_module_called_output(tmp_path):
    extractor = fxfeat.create_feature_extractor(HasAnOutput().eval(), ["conv", "output", ""], example_inputs=IMAGE)
    values = load_code(save(extractor, tmp_path))
    assert list(values()(IMAGE)) == ["conv", "output", ""]


class KeepsANormInEvalMode(Convolves):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize("training", [True, False])
def test_a_train_of_the_models_own(training, tmp_path):
    model = KeepsANormInEvalMode().train(training)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=IMAGE)
    plain = load_code(save(extractor, tmp_path))()
    plain.load_state_dict(extractor.state_dict())
    assert (plain.training, plain.norm.training) == (training, False)
    plain.train()
    assert (plain.training, plain.norm.training) == (True, False)
    assert torch.equal(plain(IMAGE)["output"], model.train()(IMAGE))


class TakesTheSmaller(Convolves):
    def forward(self, x):
        x = self.conv(x)
        return x[..., : min(x.shape[-2:])] * max(1, x.shape[-1] // 4)


def test_the_smaller_of_two_sizes(tmp_path):
    model = TakesTheSmaller().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=IMAGE)
    plain = load_code(save(extractor, tmp_path))()
    plain.load_state_dict(extractor.state_dict())
    for height, width in ((8, 12), (12, 8), (5, 5)):
        x = torch.rand(2, 3, height, width)
        assert torch.equal(plain(x)["output"], model(x))
