"""Inputs that are images and signals, and those that are none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from tests.pyramid.test_strays import Prepared

ENCODER = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)


class Wave(nn.Module):
    """Takes a signal without channels."""

    def __init__(self, prepare):
        super().__init__()
        self.prepare, self.frames, self.blocks = prepare, nn.Conv1d(1, 16, 20, 20), nn.TransformerEncoder(ENCODER, 2)

    def forward(self, x):
        return self.blocks(self.frames(self.prepare(x)).transpose(1, 2)).mean(1)


SIGNALS = {
    "index": lambda x: x[:, None],
    "named index": lambda x: x[:, None, :],
    "method": lambda x: x.unsqueeze(1),
    "function": lambda x: torch.unsqueeze(x, 1),
    "keyword": lambda x: x.unsqueeze(dim=1),
}


@pytest.mark.parametrize("prepare", SIGNALS)
@pytest.mark.parametrize("length", [1600, 1000])
def test_a_signal_without_channels(prepare, length):
    model = Wave(SIGNALS[prepare]).eval()
    pyramid = fxfeat.features_only(model, example_inputs=torch.rand(2, 1600))
    assert pyramid.feature_info.reduction() == [20, 20]
    assert [tuple(level.shape) for level in pyramid(torch.rand(3, length))] == [(3, 16, length // 20)] * 2
    _, maps = fxfeat.Backbone(model, example_inputs=torch.rand(2, 1600)).forward_intermediates(torch.rand(2, length))
    assert [tuple(level.shape) for level in maps] == [(2, 16, length // 20)] * 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_an_image_of_bytes(dtype):
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.features_only(
            Prepared(lambda x: x.float() / 255).eval(), example_inputs=(torch.zeros(1, 3, 64, 64, dtype=dtype),)
        )
    assert str(caught.value) == (
        "A feature pyramid needs an image (N, C, H, W), a volume (N, C, D, H, W) or a signal (N, C, L), and Prepared "
        f"takes x of shape (1, 3, 64, 64) and of {dtype}, which is no floating-point number. If it takes images too, "
        "pass example_inputs= with one."
    )


class Batch(nn.Module):
    """Takes its image inside a container."""

    def __init__(self, key):
        super().__init__()
        self.key, self.down, self.lower = key, nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, batch):
        return self.lower(self.down(batch[self.key]))


@pytest.mark.parametrize(("key", "pack"), [("image", lambda x: {"image": x}), (1, lambda x: [x.sum(), x])])
@pytest.mark.parametrize("named", [False, True])
def test_an_image_inside_a_container(key, pack, named):
    model, image = Batch(key).eval(), torch.rand(2, 3, 48, 64)
    pyramid = fxfeat.features_only(model, example_inputs=(pack(torch.rand(1, 3, 32, 32)),))
    down, lower = pyramid(batch=pack(image)) if named else pyramid(pack(image))
    assert torch.equal(down, model.down(image))
    assert torch.equal(lower, model.lower(down))


@pytest.mark.parametrize("output_stride", ["8", 8.0, True, 0, -8])
def test_an_output_stride_that_is_no_size(output_stride):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1))
    with pytest.raises(fxfeat.RequestError) as caught:
        fxfeat.features_only(model, output_stride=output_stride, example_inputs=torch.rand(1, 3, 32, 32))
    assert str(caught.value) == (f"output_stride is {output_stride!r}; it must be an int above 0, such as 8, 16 or 32.")


ENTRIES = {
    "features_only": lambda model, x: fxfeat.features_only(model, example_inputs=x),
    "Backbone": lambda model, x: fxfeat.Backbone(model, example_inputs=x),
    "fpn_backbone": lambda model, x: fxfeat.fpn_backbone(model, out_channels=8, example_inputs=x),
    "create_feature_extractor": lambda model, x: fxfeat.create_feature_extractor(model, ["output"], example_inputs=x),
    "get_graph_node_names": lambda model, x: fxfeat.get_graph_node_names(model, example_inputs=x),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("compile_", [torch.jit.script, lambda model: torch.jit.trace(model, torch.rand(1, 3, 32, 32))])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scripted_model(entry, compile_):
    scripted = compile_(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)).eval())
    with pytest.raises(fxfeat.TraceError) as caught:
        ENTRIES[entry](scripted, torch.rand(1, 3, 32, 32))
    assert str(caught.value).endswith(
        ": what torch.jit scripted or traced no longer runs in Python, so it cannot be looked into. Pass the "
        "nn.Module that it was made from."
    )
