"""Learn a direction that steers a frozen classifier to a class: a module in the place of a value, trained alone.

Usage: ``python examples/steer_features.py [class]``.
"""

import sys

import torch
from torch import nn

import fxfeat


class Steer(nn.Module):
    """Adds one learnt direction to every position of a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.zeros(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Shift a map."""
        return features + self.direction[:, None, None]


def main(wanted: str = "3", steps: int = 60) -> tuple[float, float]:
    """Train the direction, and print how many of some other images are taken for the class before and after."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    model.eval().requires_grad_(False)
    label, steer = int(wanted), Steer(32)
    steered = fxfeat.create_feature_extractor(
        model, {"output": "scores"}, example_inputs=torch.rand(2, 3, 32, 32), replace={"2": steer}
    )
    print(steered.code)

    optimiser = torch.optim.Adam(steer.parameters(), lr=0.05)
    for _ in range(steps):
        scores = steered(torch.rand(16, 3, 32, 32))["scores"]
        loss = nn.functional.cross_entropy(scores, torch.full((16,), label))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    others = torch.rand(64, 3, 32, 32)
    before = (model(others).argmax(1) == label).float().mean().item()
    after = (steered(others)["scores"].argmax(1) == label).float().mean().item()
    print(f"taken for class {label}: {before:.0%} before, {after:.0%} with the direction added")
    return before, after


if __name__ == "__main__":
    main(*sys.argv[1:])
