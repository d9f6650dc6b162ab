"""Saved files run in a process that has neither fxfeat nor the packages of the models."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
import transformers

import fxfeat
from fxfeat.eager.repeated_calls import equal_values

CHILD = """
import importlib.util, sys
for package in ("fxfeat", "timm", "transformers", "torchvision"):
    sys.modules[package] = None
import torch
for name in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("saved", f"{name}.py")
    saved = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(saved)
    kind = [value for value in vars(saved).values() if getattr(value, "__module__", None) == "saved"][-1]
    model = kind()
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    generator = torch.Generator().manual_seed(0)
    for key in sorted(state):
        state[key] = draw(state[key], generator)
    state |= torch.load(f"{name}.indices.pt")
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        values = model(torch.rand(1, 3, 224, 224, generator=generator))
    torch.save((sorted(state), values), f"{name}.pt")
"""


def draw(tensor, generator):
    return torch.rand(tensor.shape, generator=generator) * 0.1


def tiny(kind, **options):
    config, model = getattr(transformers, f"{kind}Config"), getattr(transformers, f"{kind}Model")
    return model(config(**options))


MODELS = {
    "torchvision_resnet50": (lambda: torchvision.models.resnet50(), ["layer1", "layer2.0.conv1"]),
    "torchvision_convnext_tiny": (lambda: torchvision.models.convnext_tiny(), ["features.1", "features.3"]),
    "torchvision_swin_t": (lambda: torchvision.models.swin_t(), ["features.1", "features.3.0.attn"]),
    "torchvision_vit_b_16": (lambda: torchvision.models.vit_b_16(), ["encoder.layers.encoder_layer_1"]),
    "timm_resnet50": (lambda: timm.create_model("resnet50"), ["layer1", "layer2.0.conv1"]),
    "timm_convnext_tiny": (lambda: timm.create_model("convnext_tiny"), ["stages.0", "stages.1"]),
    "timm_swin_tiny": (lambda: timm.create_model("swin_tiny_patch4_window7_224"), ["layers.0", "layers.1.blocks.0"]),
    "timm_vit_base": (lambda: timm.create_model("vit_base_patch16_224"), ["blocks.1"]),
    "transformers_resnet": (lambda: tiny("ResNet"), ["encoder.stages.0"]),
    "transformers_convnext": (lambda: tiny("ConvNext"), ["encoder.stages.0"]),
    "transformers_swin": (lambda: tiny("Swin", depths=[2, 2], num_heads=[3, 6]), ["encoder.layers.0.blocks.1"]),
    "transformers_vit": (lambda: tiny("ViT", num_hidden_layers=3), ["layers.1"]),
}


def save(name, home):
    build, nodes = MODELS[name]
    extractor = fxfeat.create_feature_extractor(build().eval(), nodes, example_inputs=torch.rand(1, 3, 224, 224))
    extractor.save_code(home / f"{name}.py")
    every, generator = extractor.state_dict(), torch.Generator().manual_seed(0)
    state = {key: tensor for key, tensor in every.items() if tensor.is_floating_point()}
    for key in sorted(state):
        state[key] = draw(state[key], generator)
    # Whole numbers are indices, which no random ones can stand for.
    indices = {key: tensor for key, tensor in every.items() if key not in state}
    torch.save(indices, home / f"{name}.indices.pt")
    state |= indices
    extractor.load_state_dict(state)
    with torch.no_grad():
        return sorted(state), extractor(torch.rand(1, 3, 224, 224, generator=generator))


@pytest.mark.parametrize("package", ["torchvision", "timm", "transformers"])
def test_in_a_process_without_the_packages(package, tmp_path):
    names = [name for name in MODELS if name.startswith(package)]
    expected = {name: save(name, tmp_path) for name in names}
    code = CHILD.replace("import torch\n", f"import torch\n{inspect.getsource(draw)}", 1)
    subprocess.run([sys.executable, "-c", code, *names], cwd=tmp_path, check=True, env={})
    for name, (keys, values) in expected.items():
        their_keys, theirs = torch.load(tmp_path / f"{name}.pt")
        assert their_keys == keys
        assert theirs.keys() == values.keys()
        assert equal_values(theirs, values), name
