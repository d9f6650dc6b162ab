"""Train Faster R-CNN on a backbone of your own to find coloured shapes; a few minutes on a CPU, nothing to download.

Usage: ``python examples/train_detector.py [--steps 200] [--seed 0] [--output shapes.png]``

The images are drawn here: circles, squares and triangles of any colour on a noisy ground. The backbone is a plain
network of twenty lines, of which ``fxfeat`` finds the levels, their widths and their strides. At the end the mean
average precision at an IoU of 0.5 is measured on images that were not trained on, and some are drawn with the boxes
that were found.
"""

import argparse
import random
import time
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import box_iou
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, make_grid

from fxfeat.detection import faster_rcnn

OUTPUT = Path(__file__).parent / "output" / "train_detector.png"
CLASSES = ["background", "circle", "square", "triangle"]
SIDE = 96
BATCH = 8

Target = dict[str, Tensor]


class Plain(nn.Module):
    """A classifier such as one writes in an afternoon."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        self.stages = nn.Sequential(*(self.make_stage(*pair) for pair in pairwise(widths)))
        self.classify = nn.Linear(widths[-1], 10)

    @staticmethod
    def make_stage(before: int, after: int) -> nn.Module:
        """Halve the resolution, then look around."""
        return nn.Sequential(
            *(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()),
            *(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return one score per class."""
        return self.classify(self.stages(x).mean((2, 3)))


def main(steps: int = 200, seed: int = 0, output: Path = OUTPUT, test_images: int = 100) -> float:
    """Train, measure, draw; return the mean average precision."""
    torch.manual_seed(seed)
    random.seed(seed)
    detector = build_detector()
    print(f"levels of strides {detector.backbone.strides}, of {detector.backbone.body.channels} channels in the model")
    start = time.perf_counter()
    train(detector, steps)
    print(f"trained for {steps} steps in {time.perf_counter() - start:.0f} s")
    held_out = [draw_scene() for _ in range(test_images)]
    found = predict(detector, [image for image, _ in held_out])
    precision = measure_precision(found, [target for _, target in held_out])
    print(f"mean average precision at IoU 0.5 on {test_images} new images: {precision:.3f}")
    draw_results([image for image, _ in held_out[:8]], found[:8], output)
    print(f"wrote {output}")
    return precision


def build_detector() -> FasterRCNN:
    """Put Faster R-CNN on the plain network: everything about levels and anchors follows from the model."""
    return faster_rcnn(
        Plain(),
        num_classes=len(CLASSES),
        out_channels=64,
        anchor_sizes=(16, 24, 36, 54),
        min_size=SIDE,
        max_size=SIDE,
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=32,
        box_detections_per_img=10,
    )


def train(detector: FasterRCNN, steps: int) -> None:
    """Train on scenes drawn anew for each step."""
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    detector.train()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.2f}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("training", total=steps, loss=float("nan"))
        for _ in range(steps):
            images, targets = zip(*(draw_scene() for _ in range(BATCH)), strict=True)
            loss = sum(detector(list(images), list(targets)).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            progress.update(task, advance=1, loss=loss.item())


def draw_scene() -> tuple[Tensor, Target]:
    """Draw one to four shapes that do not overlap much; return the image and what is to be found in it."""
    ground = torch.randint(0, 90, (3, SIDE, SIDE), dtype=torch.uint8)
    picture = to_pil_image(ground)
    boxes: list[list[int]] = []
    labels: list[int] = []
    for _ in range(random.randint(1, 4)):
        size = random.randint(14, 44)
        left, top = random.randint(0, SIDE - size - 1), random.randint(0, SIDE - size - 1)
        box = [left, top, left + size, top + size]
        if boxes and box_iou(torch.tensor([box]), torch.tensor(boxes)).max() > 0.05:
            continue
        labels.append(random.randint(1, 3))
        boxes.append(box)
        draw_shape(picture, CLASSES[labels[-1]], box)
    return pil_to_tensor(picture) / 255, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}


def draw_shape(picture: Image.Image, kind: str, box: list[int]) -> None:
    """Draw one shape that fills a box, in a bright colour."""
    left, top, right, bottom = box
    pen = ImageDraw.Draw(picture)
    colour = tuple(random.sample([random.randint(160, 255), random.randint(60, 255), random.randint(0, 120)], 3))
    if kind == "circle":
        pen.ellipse(box, fill=colour)
    elif kind == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)


def predict(detector: FasterRCNN, images: list[Tensor]) -> list[Target]:
    """Find the shapes in some images."""
    detector.eval()
    with torch.no_grad():
        return [found for start in range(0, len(images), BATCH) for found in detector(images[start : start + BATCH])]


def measure_precision(found: list[Target], targets: list[Target], iou: float = 0.5) -> float:
    """Compute the mean over classes of the area under the curve of precision over recall."""
    return sum(measure_class(found, targets, label, iou) for label in range(1, len(CLASSES))) / (len(CLASSES) - 1)


def measure_class(found: list[Target], targets: list[Target], label: int, iou: float) -> float:
    """Compute the average precision of one class: each box found, best first, may claim one that is there."""
    scored: list[tuple[float, bool]] = []
    for guess, target in zip(found, targets, strict=True):
        there = target["boxes"][target["labels"] == label]
        mine = guess["labels"] == label
        overlaps = box_iou(guess["boxes"][mine], there)
        for score, row in zip(guess["scores"][mine].tolist(), overlaps, strict=True):
            hit = len(row) > 0 and bool(row.max() >= iou)
            if hit:
                overlaps[:, row.argmax()] = 0  # claimed
            scored.append((score, hit))
    total = sum(int((target["labels"] == label).sum()) for target in targets)
    hits = torch.tensor([hit for _, hit in sorted(scored, reverse=True)], dtype=torch.float64)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    # The best precision at this recall or a higher one, as is usual.
    best = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    return float((best * hits).sum() / max(1, total))


def draw_results(images: list[Tensor], found: list[Target], output: Path) -> None:
    """Draw the boxes that were found, with class and score."""
    panels = []
    for image, guess in zip(images, found, strict=True):
        panel = nn.functional.interpolate(image[None], scale_factor=3)[0]
        sure = guess["scores"] > 0.5
        pairs = zip(guess["labels"][sure].tolist(), guess["scores"][sure].tolist(), strict=True)
        names = [f"{CLASSES[label]} {score:.2f}" for label, score in pairs]
        if names:
            boxes = guess["boxes"][sure] * 3
            panel = draw_bounding_boxes(panel, boxes, names, colors="white", width=2, fill_labels=True)
        panels.append(panel)
    output.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(make_grid(panels, nrow=4, padding=6, pad_value=1.0)).save(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="training steps of eight images")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write the picture")
    arguments = parser.parse_args()
    main(arguments.steps, arguments.seed, arguments.output)
