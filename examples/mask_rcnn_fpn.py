"""Build Mask R-CNN on a feature pyramid whose backbone is an extracted ResNet-50; train one step, predict once.

Everything is random, weights and images alike: the point is how the parts fit together.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from fxfeat import create_feature_extractor


class Resnet50WithFPN(nn.Module):
    """The four stages of a ResNet-50, merged top down into maps of 256 channels, as ``MaskRCNN`` wants its backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = create_feature_extractor(
            resnet50(), return_nodes={f"layer{k}": str(v) for v, k in enumerate([1, 2, 3, 4])}
        )
        with torch.no_grad():
            levels = self.body(torch.randn(2, 3, 224, 224))
        self.out_channels = 256
        self.fpn = FeaturePyramidNetwork(
            in_channels_list=[level.shape[1] for level in levels.values()],
            out_channels=self.out_channels,
            extra_blocks=LastLevelMaxPool(),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return one map per level, finest first."""
        return self.fpn(self.body(x))


def main() -> None:
    """Train for one step and predict for one image."""
    torch.manual_seed(0)
    backbone = Resnet50WithFPN()
    print(backbone.body.code)
    model = MaskRCNN(backbone, num_classes=91, min_size=128, max_size=160, box_score_thresh=0.0)
    train_step(model)
    predict(model)


def train_step(model: MaskRCNN) -> None:
    """Take one gradient step on two made-up images."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    images = [torch.rand(3, 128, 160), torch.rand(3, 144, 128)]
    losses = model.train()(images, [make_target(image) for image in images])
    total = sum(losses.values())
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    for name, loss in losses.items():
        print(f"{name:18} {loss.item():.4f}")
    reached = model.backbone.body.conv1.weight.grad.abs().sum().item()
    print(f"gradient that reached the first convolution: {reached:.4g}")


def make_target(image: Tensor) -> dict[str, Tensor]:
    """Make up two objects: boxes, classes, and masks that fill the boxes."""
    boxes = torch.tensor([[10.0, 20.0, 70.0, 90.0], [50.0, 40.0, 120.0, 110.0]])
    masks = torch.zeros(len(boxes), *image.shape[-2:], dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {"boxes": boxes, "labels": torch.tensor([1, 17]), "masks": masks}


def predict(model: MaskRCNN) -> None:
    """Detect objects in one made-up image."""
    with torch.no_grad():
        (found,) = model.eval()([torch.rand(3, 128, 160)])
    print(f"found {len(found['boxes'])} objects (untrained, so they mean nothing):")
    for key, value in found.items():
        print(f"{key:18} {tuple(value.shape)}")


if __name__ == "__main__":
    main()
