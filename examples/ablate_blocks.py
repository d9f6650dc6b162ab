"""Knock out one residual block at a time, and see how far the result moves: which blocks does the model need?

Usage: ``python examples/ablate_blocks.py [model]``, for instance ``resnet18``.
"""

import sys

import torch
import torchvision

import fxfeat


def main(model_name: str = "resnet18") -> dict[str, float]:
    """Print a bar for each block whose output is exchanged for its mean over the image."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(model_name, weights=None).eval()
    image = torch.rand(1, 3, 64, 64)
    blocks = [f"{stage}.{index}" for stage in ("layer1", "layer2", "layer3", "layer4") for index in range(2)]

    with torch.no_grad():
        whole = model(image)
        moved = {}
        for block in blocks:
            ablated = fxfeat.create_feature_extractor(model, ["output"], example_inputs=image, replace={block: flatten})
            moved[block] = float((ablated(image)["output"] - whole).norm() / whole.norm())

    for block, distance in moved.items():
        print(f"{block:10} {distance:7.4f} {'#' * round(40 * min(1.0, distance / max(moved.values())))}")
    return moved


def flatten(features: torch.Tensor) -> torch.Tensor:
    """Keep what a map has on average, and nothing of where it is."""
    return features.mean((2, 3), keepdim=True).expand_as(features)


if __name__ == "__main__":
    main(*sys.argv[1:])
