"""Model families as data: a name, how to build the model small, and its inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Entry:
    """One model of a zoo."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Any

    def __str__(self) -> str:
        return self.name


def image(size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def entries() -> Iterator[Entry]:
    yield from torchvision_entries()
    yield from transformers_entries()
    yield from smp_entries()
    yield from ultralytics_entries()
    yield from monai_entries()
    yield from timm_entries()


TORCHVISION = [
    "alexnet",
    "vgg11",
    "resnet18",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "densenet121",
    "googlenet",
    "inception_v3",
    "shufflenet_v2_x0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "squeezenet1_0",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_y_400mf",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "swin_v2_t",
    "maxvit_t",
    "fcn_resnet50",
    "deeplabv3_resnet50",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
]
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t")


def torchvision_entries() -> Iterator[Entry]:
    from torchvision.models import get_model

    def builder(name: str) -> Callable[[], nn.Module]:
        dense = any(part in name for part in ("fcn", "deeplab", "lraspp"))
        more: dict[str, Any] = {"weights_backbone": None} if dense else {}
        more |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return lambda: get_model(name, weights=None, **more)

    sizes = {"inception_v3": 299, "vit_b_16": 224, "maxvit_t": 224, "swin_t": 224, "swin_v2_t": 224, "alexnet": 224}
    for name in TORCHVISION:
        yield Entry(f"torchvision.{name}", builder(name), image(sizes.get(name, 96)))
    for name in VIDEO:
        side = 224 if name.startswith(("mvit", "s3d")) else 64
        yield Entry(f"torchvision.{name}", builder(name), torch.rand(2, 3, 16, side, side))
    for name in ("raft_small", "raft_large"):
        yield Entry(f"torchvision.{name}", builder(name), {"image1": image(128), "image2": image(128)})
    for name in ("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn"):
        yield Entry(f"torchvision.{name}.backbone", _backbone(name), image())
    for name in ("keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"):
        yield Entry(f"torchvision.{name}.backbone", _backbone(name), image())


def _backbone(name: str) -> Callable[[], nn.Module]:
    from torchvision.models import get_model

    return lambda: get_model(name, weights=None, weights_backbone=None).backbone


_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}
_SMALL = {**_VIT, "image_size": 32, "patch_size": 8}
_SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
_CONVS = {"hidden_sizes": [10, 20, 30, 40], "depths": [1, 1, 2, 1]}
_TEXT = {"vocab_size": 99, **_VIT}
_DPT = {"neck_hidden_sizes": [16, 16, 32, 32], "backbone_out_indices": [0, 1, 2, 3], "num_hidden_layers": 4}
_SAM = {"output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 37}
_HIERA = {"patch_stride": [4, 4], "patch_size": [7, 7], "patch_padding": [3, 3], "masked_unit_size": [8, 8]}
_WAV = {"conv_dim": (32, 32), "conv_stride": (4, 4), "conv_kernel": (8, 8), "num_conv_pos_embeddings": 16}
_MOBILEVIT = {"hidden_sizes": [12, 16, 20], "neck_hidden_sizes": [8, 8, 16, 16, 32, 32, 32], "num_attention_heads": 2}
_LEVIT = {"hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 3, 4], "depths": [2, 3, 4], "key_dim": [8, 8, 8]}
_FOCAL = {"embed_dim": 16, "hidden_sizes": [32, 64], "depths": [1, 2], "focal_levels": [2, 2], "focal_windows": [3, 3]}
_DETR = {
    **{"use_timm_backbone": False, "backbone": None, "d_model": 32, "num_queries": 5, "encoder_layers": 1},
    **{"decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
}

# model class, config class, config, input
TRANSFORMERS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("ViTModel", "ViTConfig", _SMALL, "image32"),
    ("DeiTModel", "DeiTConfig", _SMALL, "image32"),
    ("BeitModel", "BeitConfig", _SMALL, "image32"),
    ("Dinov2Model", "Dinov2Config", _SMALL, "image32"),
    ("SwinModel", "SwinConfig", _SWIN, "image32"),
    ("Swinv2Model", "Swinv2Config", _SWIN, "image32"),
    ("ConvNextModel", "ConvNextConfig", _CONVS, "image32"),
    ("ResNetModel", "ResNetConfig", {"embedding_size": 10, **_CONVS}, "image32"),
    ("SegformerModel", "SegformerConfig", _STAGES, "image64"),
    ("PvtModel", "PvtConfig", {"image_size": 64, **_STAGES}, "image64"),
    ("PvtV2Model", "PvtV2Config", {"image_size": 64, **_STAGES}, "image64"),
    ("MobileViTModel", "MobileViTConfig", {"image_size": 64, "intermediate_size": 37, **_MOBILEVIT}, "image64"),
    ("MobileNetV2Model", "MobileNetV2Config", {"image_size": 32, "depth_multiplier": 0.25}, "image32"),
    ("LevitModel", "LevitConfig", {"image_size": 64, **_LEVIT}, "image64"),
    ("FocalNetModel", "FocalNetConfig", {"image_size": 32, "patch_size": 2, **_FOCAL}, "image32"),
    (
        "HieraModel",
        "HieraConfig",
        {"image_size": [64, 64], "embed_dim": 24, "depths": [1] * 4, "num_heads": [1] * 4, **_HIERA},
        "image64",
    ),
    ("CLIPVisionModel", "CLIPVisionConfig", _SMALL, "image32"),
    ("SiglipVisionModel", "SiglipVisionConfig", _SMALL, "image32"),
    ("DPTForDepthEstimation", "DPTConfig", {**_SMALL, "fusion_hidden_size": 16, "is_hybrid": False, **_DPT}, "image32"),
    ("DetrModel", "DetrConfig", _DETR, "image64"),
    (
        "YolosModel",
        "YolosConfig",
        {**_VIT, "image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 5},
        "image32",
    ),
    ("SamVisionModel", "SamVisionConfig", {**_SMALL, **_SAM}, "image32"),
    ("BertModel", "BertConfig", _TEXT, "text"),
    (
        "GPT2Model",
        "GPT2Config",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
        "text",
    ),
    ("LlamaModel", "LlamaConfig", _TEXT, "text"),
    (
        "T5EncoderModel",
        "T5Config",
        {"vocab_size": 99, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 37, "d_kv": 16},
        "text",
    ),
    (
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {**_VIT, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0, "layerdrop": 0.0, **_WAV},
        "sound",
    ),
    ("VideoMAEModel", "VideoMAEConfig", {**_SMALL, "num_frames": 4}, "video"),
)


def transformers_entries() -> Iterator[Entry]:
    inputs = {
        "image32": {"pixel_values": image(32)},
        "image64": {"pixel_values": image(64)},
        "text": {"input_ids": torch.arange(24).reshape(2, 12)},
        "sound": {"input_values": torch.rand(2, 1024)},
        "video": {"pixel_values": torch.rand(2, 4, 3, 32, 32)},
    }
    for model, config, values, kind in TRANSFORMERS:
        yield Entry(f"transformers.{model}", _transformer(model, config, values), inputs[kind])


def _transformer(model: str, config: str, values: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        made = dict(values)
        if model == "DetrModel":
            made["backbone_config"] = transformers.ResNetConfig(embedding_size=10, out_features=["stage4"], **_CONVS)
        return getattr(transformers, model)(getattr(transformers, config)(**made))

    return build


SMP = [
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "MAnet",
    "Linknet",
    "PAN",
    "Segformer",
    "UPerNet",
]


def smp_entries() -> Iterator[Entry]:
    def builder(name: str) -> Callable[[], nn.Module]:
        return lambda: getattr(importlib.import_module("segmentation_models_pytorch"), name)(
            "resnet18", encoder_weights=None
        )

    for name in SMP:
        yield Entry(f"smp.{name}", builder(name), image(128 if name == "PAN" else 64))


def ultralytics_entries() -> Iterator[Entry]:
    def builder(name: str) -> Callable[[], nn.Module]:
        return lambda: importlib.import_module("ultralytics").YOLO(f"{name}.yaml").model.float()

    for name in ("yolov5n", "yolov8n", "yolov8n-seg", "yolo11n"):
        yield Entry(f"ultralytics.{name}", builder(name), image())


_UNETR = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2, "spatial_dims": 2}

# class, positional arguments, keyword arguments, side of the image, channels
MONAI: tuple[tuple[str, tuple[Any, ...], dict[str, Any], int, int], ...] = (
    ("UNet", (2, 1, 2, (4, 8, 16), (2, 2)), {}, 32, 1),
    ("BasicUNet", (2, 1, 2, (4, 4, 8, 8, 16, 4)), {}, 32, 1),
    ("DynUNet", (2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2]), {"filters": [4, 8, 16]}, 32, 1),
    ("SegResNet", (2, 8, 1, 2), {}, 32, 1),
    ("AttentionUnet", (2, 1, 2, (4, 8, 16), (2, 2)), {}, 32, 1),
    (
        "UNETR",
        (1, 2, (32, 32)),
        _UNETR,
        32,
        1,
    ),
    ("SwinUNETR", (1, 2), {"feature_size": 12, "spatial_dims": 2}, 64, 1),
    ("DenseNet121", (2, 1, 3), {}, 64, 1),
    ("ViT", (1, (32, 32), (8, 8), 24, 32, 2, 2), {"spatial_dims": 2}, 32, 1),
    ("VNet", (2, 1, 2), {}, 32, 1),
    ("FlexibleUNet", (3, 2, "efficientnet-b0"), {}, 64, 3),
)


def monai_entries() -> Iterator[Entry]:
    def builder(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], nn.Module]:
        return lambda: getattr(importlib.import_module("monai.networks.nets"), name)(*args, **kwargs)

    for name, args, kwargs, side, channels in MONAI:
        yield Entry(f"monai.{name}", builder(name, args, kwargs), image(side, channels))


SMALL_FIRST = [
    "test_",
    "atto",
    "pico",
    "femto",
    "nano",
    "xxs",
    "tiny",
    "_xs",
    "micro",
    "_t_",
    "small",
    "_s",
    "_b0",
    "18",
    "lite",
    "mini",
    "_n",
]
MOST_PARAMETERS = 120_000_000


def timm_entries() -> Iterator[Entry]:
    """Yield one model, likely a small one, for each module file of timm."""
    import timm

    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            name = min(names, key=_likely_size)
            config = timm.get_pretrained_cfg(name)
            side = (config.input_size if config else (3, 224, 224))[-1]
            yield Entry(f"timm.{module}.{name}", _timm(name), image(side))


def _likely_size(name: str) -> tuple[int, int, str]:
    return min([rank for rank, part in enumerate(SMALL_FIRST) if part in name] or [99]), len(name), name


def _timm(name: str) -> Callable[[], nn.Module]:
    return lambda: importlib.import_module("timm").create_model(name, pretrained=False)
