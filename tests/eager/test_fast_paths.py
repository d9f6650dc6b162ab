"""A tap of an operation does not turn off the fast paths of torch's own modules, which round otherwise."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*runs whole:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning"),
]
WIDTH, HEADS = 16, 4
X = torch.randn(3, 6, WIDTH, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[False] * 6, [False] * 4 + [True] * 2, [False] * 3 + [True] * 3])


class Layer(nn.TransformerEncoderLayer):
    def __init__(self):
        super().__init__(WIDTH, HEADS, 32, batch_first=True)

    def forward(self, x, mask=None):
        x = torch.sin(x)
        y = super().forward(x, src_key_padding_mask=mask)
        return torch.cos(y) if np.random.uniform() < 2 else y


class Encoder(nn.TransformerEncoder):
    def __init__(self):
        super().__init__(nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True), 2)

    def forward(self, x, mask=None):
        x = torch.sin(x)
        y = super().forward(x, src_key_padding_mask=mask)
        return torch.cos(y) if np.random.uniform() < 2 else y


class Attention(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(WIDTH, HEADS, batch_first=True)

    def forward(self, x, mask=None):
        x = torch.sin(x)
        y = super().forward(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        return torch.cos(y) if np.random.uniform() < 2 else y


class Around(nn.Module):
    """Has an operation right beside a module of torch's own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, mask=None):
        return self.inner(x * 2, mask) + 1 if np.random.uniform() < 2 else x


KINDS = [Layer, Encoder, Attention]
FUSED = {
    Layer: "_transformer_encoder_layer_fwd",
    Encoder: "_transformer_encoder_layer_fwd",
    Attention: "_native_multi_head_attention",
}


def _inputs(masked):
    return (X, MASK) if masked else (X,)


@pytest.fixture
def fused(monkeypatch):
    """Count the calls of fused kernels."""
    calls = []
    for name in set(FUSED.values()):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *held, name=name, plain=plain: (calls.append(name), plain(*held))[1])
    return calls


@pytest.mark.parametrize("engine", ["auto", "tap"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_plain_run(engine, masked, grad, kind, fused):
    model = Around(kind()).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(grad)
    names = ["mul", "inner.sin", "inner.cos", "add", "output"]
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=_inputs(masked), engine=engine)
    with torch.set_grad_enabled(grad):
        fused.clear()
        expected = model(*_inputs(masked))
        taken = list(fused)
        fused.clear()
        values = extractor(*_inputs(masked))
    assert fused == taken and bool(taken) is not grad
    assert torch.equal(values["output"], expected) and torch.equal(values["add"], expected)
    assert torch.equal(values["mul"], X * 2) and torch.equal(values["inner.sin"], torch.sin(X * 2))
    assert torch.equal(values["inner.cos"] + 1, expected)


@pytest.mark.parametrize("engine", ["auto", "tap"])
@pytest.mark.parametrize("kind", [Layer, Attention])
def test_an_operation_inside_a_fused_kernel_is_an_error(engine, kind):
    model = Around(kind()).eval().requires_grad_(False)
    inner = {Layer: "inner.add", Attention: "inner.multi_head_attention_forward[0]"}[kind]
    names = [inner, "inner.cos"]
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X, engine=engine)
    with pytest.raises(fxfeat.GuardError, match="is inside a fused kernel when"):
        extractor(X)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        values, plain = extractor(X), model(X)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert torch.equal(values["inner.cos"] + 1, plain)


class Residual(Layer):
    """Adds after the layer, whose own additions are in the fused kernel."""

    def forward(self, x, mask=None):
        y = nn.TransformerEncoderLayer.forward(self, x, src_key_padding_mask=mask)
        return torch.add(y, 1) if np.random.uniform() < 2 else y


@pytest.mark.parametrize("name", ["inner.add", "inner.add_1", "inner.add_2"])
def test_operations_are_not_taken_for_others_where_a_kernel_leaves_some_out(name):
    model = Around(Residual()).eval().requires_grad_(False)
    extractor = fxfeat.create_feature_extractor(model, [name], example_inputs=X, engine="tap")
    with pytest.raises(fxfeat.GuardError, match="is inside a fused kernel when"):
        extractor(X)


def test_torch_is_left_as_it_was():
    before = torch.overrides.has_torch_function
    model = Around(Layer()).eval().requires_grad_(False)
    extractor = fxfeat.create_feature_extractor(model, ["inner.cos"], example_inputs=X, engine="tap")
    extractor(X)
    with pytest.raises(Exception, match=""):
        extractor(X[..., :3])
    assert torch.overrides.has_torch_function is before


def test_other_threads_are_told_of_their_own_modes():
    asked = []

    class Asking(nn.Module):
        def forward(self, x):
            class Mode(torch.overrides.TorchFunctionMode):
                pass

            def ask():
                with Mode():
                    asked.append(torch.overrides.has_torch_function((x,)))

            y = torch.sin(x)
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            asked.append(torch.overrides.has_torch_function((x,)))
            return torch.cos(y)

    extractor = fxfeat.create_feature_extractor(Asking(), ["sin", "cos"], example_inputs=X, engine="tap")
    asked.clear()
    extractor(X)
    assert asked == [True, False]


def test_a_copy_is_not_needed_for_the_plain_run():
    model = Around(Encoder()).eval().requires_grad_(False)
    expected = model(X)
    extractor = fxfeat.create_feature_extractor(copy.deepcopy(model), ["inner.cos"], example_inputs=X)
    assert torch.equal(extractor(X)["inner.cos"] + 1, expected)
