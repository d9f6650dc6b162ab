"""Models whose features cannot be told, or stand elsewhere than in the first result."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxfeat import Backbone, RequestError

IMAGE = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
RESULT = "its result of shape"


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (3, 8, 16, 32)
        self.stages = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in itertools.pairwise(widths))

    def climb(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x).relu()
            maps.append(x)
        return maps

    def forward(self, x):
        return self.climb(x)


class Loss(Encoder):
    def forward(self, x):
        return self.climb(x)[-1].square().mean()


class Similarity(Encoder):
    def forward(self, x):
        left, right = self.climb(x)[-1].mean((2, 3)), self.climb(x.flip(3))[-1].mean((2, 3))
        return F.cosine_similarity(left, right)


class Matrix(Encoder):
    def forward(self, x):
        left, right = self.climb(x)[-1].mean((2, 3)), self.climb(x.flip(3))[-1].mean((2, 3))
        return left @ right.T


class Generator(Encoder):
    def __init__(self, code=False):
        super().__init__()
        self.narrow, self.wide, self.code = nn.Linear(512, 4), nn.Linear(4, 512), code
        self.up = nn.ConvTranspose2d(32, 3, 8, 8)

    def forward(self, x):
        code = self.narrow(self.climb(x)[-1].flatten(1))
        image = self.up(self.wide(code).view(-1, 32, 4, 4))
        return (image, code) if self.code else image


class U(Encoder):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)

    def forward(self, x):
        first, second, _ = self.climb(x)
        return self.up(second) + first


class Depth(U):
    def forward(self, x):
        return super().forward(x).mean(1)


class Heads(U):
    def forward(self, x):
        return torch.cat([super().forward(x).flatten(2), self.climb(x)[0].flatten(2)], 2)


class Flat(Encoder):
    def forward(self, x):
        return self.climb(x)[-1].flatten(1)


POOLS_NOTHING = "still has positions, so nothing pools it"
REFUSED = {
    Loss: f"{RESULT} () has no axis of scores, as a loss and a similarity have none",
    Similarity: f"{RESULT} (3,) has no axis of scores, as a loss and a similarity have none",
    Matrix: "its result comes from matmul, and no one value with positions lies on every path to that",
    Generator: f"{RESULT} (3, 3, 32, 32) has positions of its own, as what a decoder makes has",
    U: f"{RESULT} (3, 8, 16, 16) {POOLS_NOTHING}",
    Depth: f"{RESULT} (3, 16, 16) {POOLS_NOTHING}",
    Heads: f"{RESULT} (3, 8, 512) {POOLS_NOTHING}",
    Flat: f"{RESULT} (3, 512) {POOLS_NOTHING}",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_results_that_are_no_features(kind):
    with pytest.raises(RequestError) as caught:
        Backbone(kind().eval(), example_inputs=IMAGE).split  # noqa: B018
    assert str(caught.value) == (
        f"{kind.__name__} has no head: fxfeat looked for a value with positions, pooling after it and a linear layer "
        f"that makes scores, but {REFUSED[kind]}. For inner values of such a model, use fxfeat.features_only or "
        "fxfeat.create_feature_extractor."
    )


def test_a_code_that_a_decoder_reads_is_no_score():
    with pytest.raises(RequestError) as caught:
        Backbone(Generator(code=True).eval(), example_inputs=IMAGE).split  # noqa: B018
    assert "what would be its classifier leads to another result" in str(caught.value)


def test_the_last_of_the_maps_that_an_encoder_returns():
    model = Encoder().eval()
    backbone = Backbone(model, example_inputs=IMAGE)
    assert backbone.num_features == 32
    assert torch.equal(backbone.forward_features(IMAGE), model(IMAGE)[-1])
    backbone.reset_classifier(7, "avg")
    scores = backbone.get_classifier()(model(IMAGE)[-1].mean((2, 3)))
    assert torch.equal(backbone(IMAGE), scores)
