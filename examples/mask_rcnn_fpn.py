"""Build Mask R-CNN on a ResNet-50 with one call; train one step, predict once.

Everything is random, weights and images alike: the point is how the parts fit together. Any other model will do in
place of the ResNet-50, a Swin or a vision transformer too.
"""

import torch
from torch import Tensor
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN

from fxfeat.detection import mask_rcnn


def main() -> None:
    """Train for one step and predict for one image."""
    torch.manual_seed(0)
    model = mask_rcnn(resnet50(), num_classes=91, min_size=128, max_size=160, box_score_thresh=0.0)
    print(model.backbone.body.extractor.code)
    print(f"strides {model.backbone.strides}, anchors {model.rpn.anchor_generator.sizes}")
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
