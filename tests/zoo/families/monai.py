"""MONAI: its networks for medical images, small."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from tests.zoo.entry import Build, Entry, Make
from tests.zoo.inputs import floats, image, named, whole

_UNETR = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2, "spatial_dims": 2}
_DIFFUSION = {"channels": (8, 16), "attention_levels": (False, True), "num_res_blocks": 1, "norm_num_groups": 4}
_LATENT = {"channels": (8, 16), "attention_levels": (False, False), "num_res_blocks": 1, "norm_num_groups": 4}
_STEPS = {"downsample_parameters": ((2, 4, 1, 1),) * 2, "upsample_parameters": ((2, 4, 1, 1, 0),) * 2}
_CODES = {"channels": (8, 16), "num_res_channels": (8, 8), "num_embeddings": 8, **_STEPS}
_MAE = {"hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 2, "decoder_hidden_size": 24}
_MAE_HEAD = {"decoder_mlp_dim": 32, "decoder_num_layers": 1, "decoder_num_heads": 2, "spatial_dims": 2}

# class, positional arguments, keyword arguments, input
MODELS: tuple[tuple[str, tuple[Any, ...], dict[str, Any], Make], ...] = (
    ("UNet", (2, 1, 2, (4, 8, 16), (2, 2)), {}, image(32, 1)),
    ("BasicUNet", (2, 1, 2, (4, 4, 8, 8, 16, 4)), {}, image(32, 1)),
    ("BasicUNetPlusPlus", (2, 1, 2, (4, 4, 8, 8, 16, 4)), {}, image(32, 1)),
    ("DynUNet", (2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2]), {"filters": [4, 8, 16]}, image(32, 1)),
    ("SegResNet", (2, 8, 1, 2), {}, image(32, 1)),
    ("SegResNetDS", (2, 8, 1, 2), {}, image(32, 1)),
    ("SegResNetVAE", ((32, 32),), {"spatial_dims": 2, "in_channels": 1}, image(32, 1)),
    ("AttentionUnet", (2, 1, 2, (4, 8, 16), (2, 2)), {}, image(32, 1)),
    ("UNETR", (1, 2, (32, 32)), _UNETR, image(32, 1)),
    ("SwinUNETR", (1, 2), {"feature_size": 12, "spatial_dims": 2}, image(64, 1)),
    ("SwinUNETR", (1, 2), {"feature_size": 12, "use_v2": True}, floats(1, 1, 64, 64, 64)),
    ("DenseNet121", (2, 1, 3), {}, image(64, 1)),
    ("SEResNet50", (), {"spatial_dims": 2, "in_channels": 1, "num_classes": 2}, image(64, 1)),
    ("EfficientNetBN", ("efficientnet-b0",), {"pretrained": False}, image(64)),
    ("ResNet", ("basic", [1, 1, 1, 1], [8, 16, 16, 32], 2, 1), {}, image(32, 1)),
    ("ViT", (1, (32, 32), (8, 8), 24, 32, 2, 2), {"spatial_dims": 2}, image(32, 1)),
    (
        "ViTAutoEnc",
        (1, (32, 32), (4, 4)),
        {"hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 2, "spatial_dims": 2},
        image(32, 1),
    ),
    ("MaskedAutoEncoderViT", (1, (32, 32), (8, 8)), {**_MAE, **_MAE_HEAD}, image(32, 1)),
    ("VNet", (2, 1, 2), {}, image(32, 1)),
    ("HighResNet", (2, 1, 2), {}, image(32, 1)),
    ("AHNet", (), {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, image(128, 1)),
    ("FlexibleUNet", (3, 2, "efficientnet-b0"), {}, image(64)),
    ("HoVerNet", (), {"mode": "fast", "out_classes": 2}, image(256, rows=1)),
    ("DAF3D", (), {"in_channels": 1, "out_channels": 2, "visual_output": False}, floats(1, 1, 32, 32, 32)),
    ("MedNeXt", (2, 8, 1, 2), {}, image(64, 1)),
    ("AutoEncoder", (2, 1, 1, (4, 8), (2, 2)), {}, image(32, 1)),
    ("VarAutoEncoder", (2, (1, 32, 32), 1, 8, (4, 8), (2, 2)), {}, image(32, 1)),
    ("AutoencoderKL", (2,), {"latent_channels": 4, **_LATENT}, image(32, 1)),
    ("VQVAE", (2, 1, 1), _CODES, image(64, 1)),
    ("DiffusionModelUNet", (2, 1, 1), _DIFFUSION, named(x=image(32, 1), timesteps=whole(2))),
    ("RegUNet", (2, 1, 4, 2), {}, image(32, 1)),
    ("GlobalNet", ((32, 32), 2, 1, 4, 2), {}, image(32, 1)),
    ("LocalNet", (2, 1, 4), {"out_channels": 2, "extract_levels": [0, 1, 2]}, image(32, 1)),
    ("VoxelMorphUNet", (2, 2, 4, (4, 8, 8, 4), (4,)), {}, image(32, 2)),
    ("Discriminator", ((1, 32, 32), (4, 8), (2, 2)), {}, image(32, 1)),
    ("PatchDiscriminator", (2, 4, 1), {}, image(64, 1)),
    ("Regressor", ((1, 32, 32), (2,), (4, 8), (2, 2)), {}, image(32, 1)),
    ("Quicknat", (), {"num_channels": 1, "num_filters": 8}, image(64, 1)),
)


def entries() -> Iterator[Entry]:
    seen: dict[str, int] = {}
    for name, args, options, inputs in MODELS:
        seen[name] = seen.get(name, 0) + 1
        label = name if seen[name] == 1 else f"{name}.{seen[name]}"
        yield Entry(f"monai.{label}", _builder(name, args, options), inputs)


def _builder(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Build:
    return lambda: getattr(importlib.import_module("monai.networks.nets"), name)(*args, **options)
