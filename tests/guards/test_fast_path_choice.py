"""Torch's own modules choose between plain code and a fused kernel: where they are opened, the choice is checked."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import fxfeat

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*runs whole:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning"),
]
X = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[False] * 4, [False] * 2 + [True] * 2])


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


REGIONS = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": autocast,
}


class Attention(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(8, 2, batch_first=True)

    def forward(self, src, src_key_padding_mask=None):
        x = torch.sin(src)
        y = super().forward(x, x, x, key_padding_mask=src_key_padding_mask, need_weights=False)[0]
        return torch.cos(y)


def layer():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


KINDS = {
    "encoder": (lambda: nn.TransformerEncoder(layer(), 2), "layers.0"),
    "layer": (layer, "add"),
    "attention": (Attention, "sin"),
}


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_eager_or_an_error(kind, training, masked):
    make, inner = KINDS[kind]
    torch.manual_seed(0)
    model = make().train(training)
    given = (X,) if not masked else (X, None, MASK) if kind == "encoder" else (X, MASK)
    given = (X, None, MASK) if kind == "layer" and masked else given
    extractor = fxfeat.create_feature_extractor(model, [inner, "output"], example_inputs=given)
    assert not extractor.tapped
    for name, region in REGIONS.items():
        with region():
            torch.manual_seed(1)
            expected = model(*given)
            torch.manual_seed(1)
            try:
                value = extractor(*given)["output"]
            except fxfeat.GuardError as error:
                assert name in ("no_grad", "inference") and not training
                assert "gradients or autocast are on" in str(error)
                continue
        assert torch.equal(value, expected), name
        assert name in ("grad", "autocast") or training or (kind == "encoder" and not masked)


@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients_it_runs_whole(kind):
    make, inner = KINDS[kind]
    model = make().eval().requires_grad_(False)
    given = (X, None, MASK) if kind == "encoder" else (X,)
    with pytest.raises(fxfeat.TraceError, match="runs on its fast path, which rounds otherwise than its code"):
        fxfeat.create_feature_extractor(model, [inner, "output"], example_inputs=given, engine="code")
    assert fxfeat.create_feature_extractor(model, [inner, "output"], example_inputs=given).tapped


def test_hooks_inside_a_layer_settle_it():
    """A hook on a part of the layer has torch run the plain code, with gradients or without."""
    model = layer().eval()
    extractor = fxfeat.create_feature_extractor(model, ["linear1"], example_inputs=X)
    seen = []
    handle = model.linear1.register_forward_hook(lambda module, args, result: seen.append(result.clone()))
    with torch.no_grad():
        model(X)
        handle.remove()
        assert torch.equal(extractor(X)["linear1"], seen[0])
