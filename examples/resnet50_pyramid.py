"""Draw the feature pyramid that a ResNet-50 computes from a photograph: yours, or one that scikit-learn ships.

Usage: ``python examples/resnet50_pyramid.py [photo.jpg] [--output maps.png]``

The weights are random, so that nothing has to be downloaded; even so the maps follow the shapes of the photograph.
Each level is drawn twice: all its channels at once, with their three principal components as red, green and blue, and
below that the single channel that varies most.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from torch import Tensor
from torchvision.models import resnet50

from fxfeat import create_feature_extractor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LEVELS = ["layer1", "layer2", "layer3", "layer4"]
OUTPUT = Path(__file__).parent / "output" / "resnet50_pyramid.png"


def main(photo: Path | None = None, output: Path = OUTPUT) -> Path:
    """Extract the four levels of one photograph and draw them."""
    torch.manual_seed(0)
    image = read_photo(photo)
    extractor = create_feature_extractor(resnet50(weights=None), LEVELS)
    print(extractor.code)
    with torch.no_grad():
        # Train mode: batch normalisation measures the photograph itself, as untrained running statistics would not.
        levels = extractor.train()(normalise(image))
    for name, level in levels.items():
        print(f"{name}: {tuple(level.shape)}")
    draw(image, levels, output)
    print(f"wrote {output}")
    return output


def read_photo(photo: Path | None) -> Image.Image:
    """Read a photograph and resize it to 672 pixels wide and a multiple of 32 high."""
    image = Image.open(photo).convert("RGB") if photo else Image.fromarray(load_sample_image("china.jpg"))
    height = max(1, round(672 * image.height / image.width / 32)) * 32
    return image.resize((672, height), Image.Resampling.LANCZOS)


def normalise(image: Image.Image) -> Tensor:
    """Turn a picture into a batch of one, with the mean and deviation that ImageNet models expect."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((pixels - mean[:, None, None]) / deviation[:, None, None]).unsqueeze(0)


def draw(image: Image.Image, levels: dict[str, Tensor], output: Path) -> None:
    """Draw the photograph on the left, and a column for each level."""
    height = 3.2 * image.height / image.width
    figure = plt.figure(figsize=(3.2 * (len(levels) + 2), 2 * height + 1.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)
    figure.suptitle("What the four levels of a ResNet-50 make of a photograph (random weights)", fontsize=20)
    grid = figure.add_gridspec(2, len(levels) + 2)
    show(figure.add_subplot(grid[:, :2]), image, f"photograph, 3 x {image.height} x {image.width}")
    for column, (name, level) in enumerate(levels.items(), 2):
        features = level[0].numpy()
        channel = features.std(axis=(1, 2)).argmax()
        title = f"{name}, {' x '.join(map(str, features.shape))}"
        show(figure.add_subplot(grid[0, column]), mix_channels(features), title)
        show(figure.add_subplot(grid[1, column]), stretch(features[channel]), f"channel {channel} alone")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
    plt.close(figure)


def show(axis: Axes, picture: Image.Image | np.ndarray, title: str) -> None:
    """Draw one picture under its title."""
    axis.imshow(picture, cmap="magma", interpolation="nearest")
    axis.set_title(title, fontsize=15)
    axis.set_anchor("N")
    axis.set_axis_off()


def mix_channels(features: np.ndarray) -> np.ndarray:
    """Turn all channels into red, green and blue: their three principal components, each stretched to [0, 1]."""
    channels, height, width = features.shape
    parts = PCA(3, random_state=0).fit_transform(features.reshape(channels, -1).T)
    return np.stack([stretch(part) for part in parts.T], axis=-1).reshape(height, width, 3)


def stretch(values: np.ndarray) -> np.ndarray:
    """Scale values to [0, 1], leaving out the outermost percent at either end."""
    low, high = np.percentile(values, [1, 99])
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the feature pyramid of a photograph.")
    parser.add_argument("photo", nargs="?", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    main(arguments.photo, arguments.output)
