"""The grid of tokens at other sizes than the example's: as the windows leave it, not as their number suggests."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.pyramid.formats import find_grid
from fxfeat.vision.layout import Layout


class Tokens(nn.Module):
    def __init__(self, kernel, stride, padding=0, stem=False, classes=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3, 2, 1) if stem else nn.Identity()
        self.patches, self.head = nn.Conv2d(3, 8, kernel, stride, padding), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2))
        self.class_token = nn.Parameter(torch.rand(1, 1, 8)) if classes else None

    def run(self, x):
        x = self.patches(self.stem(x))
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = x + block(x)
        return x, grid

    def forward(self, x):
        return self.head(self.run(x)[0].mean(1))


CASES = {
    "the grid turned about fits as well": ((8, 8), (70, 90), (71, 73)),
    "of patches of 16": ((16, 16), (61, 67), (93, 96)),
    "overlapping, padded": ((7, 4, 3), (61, 67), (73, 71)),
    "behind a stem": ((4, 4, 0, True), (100, 100), (71, 134)),
    "padded": ((4, 4, 2), (77, 64), (132, 38)),
    "as many places as the example": ((14, 14), (64, 64), (114, 39)),
    "an example that divides": ((4, 4, 0, True), (224, 224), (78, 79)),
    "overlapping": ((16, 8), (64, 64), (96, 96)),
    "an example that does not divide": ((8, 8), (100, 100), (79, 79)),
    "with a class token": ((8, 8, 0, False, True), (70, 90), (71, 73)),
}


@pytest.mark.parametrize("case", CASES)
def test_grids_at_other_sizes(case):
    arguments, example, size = CASES[case]
    model = Tokens(*arguments).eval()
    pyramid = fxfeat.features_only(model, example_inputs=torch.rand(1, 3, *example))
    for height, width in (size, size[::-1]):
        x = torch.rand(2, 3, height, width)
        tokens, grid = model.run(x)
        expected = tokens[:, -grid.numel() :].transpose(1, 2).unflatten(2, grid)
        assert torch.equal(pyramid(x)[-1], expected)


class PadsToPatches(Tokens):
    """Pads as far as it must: no window says how large the grid is."""

    def run(self, x):
        height, width = x.shape[2:]
        return super().run(nn.functional.pad(x, (0, -width % 8, 0, -height % 8)))


def test_a_grid_that_is_rounded_up_is_found_by_its_places():
    model = PadsToPatches(8, 8).eval()
    pyramid = fxfeat.features_only(model, example_inputs=torch.rand(1, 3, 60, 70))
    for size in ((79, 65), (65, 73), (64, 72)):
        x = torch.rand(1, 3, *size)
        tokens, grid = model.run(x)
        assert torch.equal(pyramid(x)[-1], tokens.transpose(1, 2).unflatten(2, grid))


def test_a_grid_that_places_leave_open_is_refused():
    with pytest.raises(fxfeat.GuardError) as error:
        find_grid(110, Layout("NLC", (7, 7), 8, (8.0, 8.2)), (87, 86))
    assert str(error.value) == (
        "The map has 110 places, which fit a grid of (10, 11) and a grid of (11, 10) over an image of (87, 86) pixels "
        "in steps of (8, 8). Create the pyramid with example_inputs= like this input."
    )
