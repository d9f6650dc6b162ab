"""Take inner values out of a transformers model and a timm model, by names that their authors never exported.

Both have random weights: nothing is downloaded.
"""

import timm
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import fxfeat


def main() -> None:
    """Wrap both models and print what comes out."""
    torch.manual_seed(0)
    wrap_segformer()
    wrap_convnext()


def wrap_segformer() -> None:
    """Ask a SegFormer for the attention of its last stage, the fused map of its decoder and its result."""
    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128], num_attention_heads=[1, 2, 4, 8], decoder_hidden_size=64
    )
    model = SegformerForSemanticSegmentation(config).eval()
    _, names = fxfeat.get_graph_node_names(model, suppress_diff_warning=True)
    attention = [name for name in names if name.endswith("attention.scaled_dot_product_attention")][-1]
    request = {attention: "attention", "decode_head.linear_fuse": "fused", "output['logits']": "logits"}
    show(model, request, torch.rand(1, 3, 128, 128))


def wrap_convnext() -> None:
    """Ask a ConvNeXt for two whole stages and for an activation in the middle of a block."""
    model = timm.create_model("convnext_atto", pretrained=False).eval()
    request = {"stages.0": "low", "stages.1.blocks.1.mlp.act": "inner", "stages.1": "middle"}
    show(model, request, torch.rand(1, 3, 96, 96))


def show(model: nn.Module, request: dict[str, str], image: torch.Tensor) -> None:
    """Print the emitted code and the features, and compare them with what hooks see."""
    extractor = fxfeat.create_feature_extractor(model, request)
    print(f"--- {type(model).__name__}\n\n{extractor.code}")
    for key, value in extractor(image).items():
        print(f"{key:12} {tuple(value.shape)}")
    print(fxfeat.verify(model, extractor, image))


if __name__ == "__main__":
    main()
