"""Pooling of tokens that the model keeps in an order of its own."""

from __future__ import annotations

import pytest
import torch

from fxfeat import Backbone
from tests.pyramid.test_token_places import Around, Backwards, Between, Columns

IMAGE = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def forward_first(self, x):
    x = self.arrange(self.embed(x))
    for block in self.blocks:
        x = block(x)
    return self.head(x[:, 0])


@pytest.mark.parametrize("kind", [Around, Between, Columns, Backwards])
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_tokens_in_an_order_of_their_own_are_pooled(kind, pool):
    model = type(kind.__name__, (kind,), {"forward": forward_first})().eval()
    backbone = Backbone(model, example_inputs=IMAGE)
    tokens = backbone.forward_features(IMAGE)
    backbone.reset_classifier(0, pool)
    places = range(*kind.places.indices(tokens.shape[1])) if isinstance(kind.places, slice) else sorted(kind.places)
    chosen = tokens[:, list(places)]
    assert torch.equal(backbone(IMAGE), chosen.mean(1) if pool == "avg" else chosen.amax(1))
