"""Sizes that code reads from data go into torch calls as they are on each input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import same

X = torch.randn(4, 8)
EXAMPLE, *OTHERS = map(torch.tensor, ([0, 0, 1, 1], [0, 1, 2, 2], [1, 3, 0, 0], [2, 2, 2, 2]))

SIZES = {
    "zeros": lambda m, x, k: torch.zeros(int(k.max()) + 1, 8).index_add_(0, k, m.a(x)),
    "item": lambda m, x, k: torch.zeros(int(k.max().item()) + 1, 8).index_add_(0, k, m.a(x)),
    "one hot": lambda m, x, k: F.one_hot(k, num_classes=int(k.max()) + 1).float().T @ m.a(x),
    "arange": lambda m, x, k: (torch.arange(int(k.max()) + 1)[:, None] == k).float() @ m.a(x),
    "slice": lambda m, x, k: m.a(x)[: int(k.max())],
    "ratio": lambda m, x, k: m.a(x)[: int(k.float().mean() * 2)],
    "expand": lambda m, x, k: m.a(x)[0].expand(int(k.max()), 8),
    "pad": lambda m, x, k: F.pad(m.a(x), (0, 0, 0, int(k.max()))),
    "scatter": lambda m, x, k: x.new_zeros(max(int(k.max()), 0) + 1, 8).scatter_add_(
        0, k[:, None].expand(4, 8), m.a(x)
    ),
    "full": lambda m, x, k: torch.full((int(k.max()), 8), float(k.min())) + m.a(x)[0],
    "index": lambda m, x, k: m.a(x)[int(k[0])],
    "nonzero": lambda m, x, k: m.a(x) * len(k.nonzero()),
    "selected": lambda m, x, k: torch.cat([m.a(x[k > 0]), x.new_zeros(x.shape[0] - x[k > 0].shape[0], 8)]),
    "unique": lambda m, x, k: torch.zeros(len(k.unique()), 8) + m.a(x)[0],
    "inverse": lambda m, x, k: torch.zeros(5, 8).index_add_(0, torch.unique(k, return_inverse=True)[1], m.a(x)),
    "split": lambda m, x, k: torch.cat(
        [part * 2 for part in m.a(x).split([*(k == k[0]).sum().view(1).tolist(), 4 - int((k == k[0]).sum())])]
    ),
    "counts": lambda m, x, k: torch.cat([p * 2 for p in m.a(x).split(k.bincount(minlength=4).tolist())]),
    "converted one by one": lambda m, x, k: m.a(x).repeat_interleave(torch.tensor([int(v) for v in k]), 0),
    "given to a whole module": lambda m, x, k: m.scaled(m.a(x), int(k.max()), numbers=[int(k.min()), k[1].item()]),
    "half of a size": lambda m, x, k: m.a(x)[: int(x.shape[0] / 2)] * float(x.shape[0]),
}


class Scaled(nn.Module):
    """Stays whole, where it may go by a number out of sight."""

    def __init__(self):
        super().__init__()
        self.layer, self.scales = nn.Linear(8, 8), [1.0, 2.0, 3.0, 4.0]

    def forward(self, x, number, numbers=()):
        return self.layer(x) * self.scales[number] * sum(self.scales[each] for each in numbers)


def build(forward):
    model = type("Model", (nn.Module,), {"forward": forward})()
    model.a, model.scaled = nn.Linear(8, 8), Scaled()
    return model.eval()


@pytest.mark.parametrize("name", SIZES)
def test_a_size_from_data_is_followed(name):
    model = build(SIZES[name])
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=(X, EXAMPLE))
    for other in (EXAMPLE, *OTHERS):
        assert same(extractor(X, other)["output"], model(X, other)), extractor.code


def test_conversions_of_sizes_leave_them_free():
    model = build(SIZES["half of a size"])
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=(X, EXAMPLE))
    x = torch.randn(7, 8)
    assert same(extractor(x, EXAMPLE)["output"], model(x, EXAMPLE))


KINDS = {
    "type is": lambda m, x, k: m.a(x) * (2 if type(int(k.max())) is int else 3),
    "isinstance": lambda m, x, k: m.a(x) * (2 if isinstance(int(k.max()), int) else 3),
    "dtype": lambda m, x, k: m.a(x) * k.to(int).sum() + torch.zeros(8, dtype=float).to(x),
    "of a text": lambda m, x, k: m.a(x) * int("11", 2) * float("2") * int(3.7),
    "mapped": lambda m, x, k: m.a(x) * sum(map(int, (1.5, 2.5))),
    "as a key": lambda m, x, k: m.a(x) * {int: 2, float: 3}[type(x.shape[0])],
}


@pytest.mark.parametrize("name", KINDS)
def test_int_and_float_are_what_they_were(name):
    model = build(KINDS[name])
    code = model.forward.__func__.__code__
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=(X, EXAMPLE))
    assert model.forward.__func__.__code__ is code
    assert not [key for key in model.forward.__func__.__globals__ if key.startswith("fxfeat ")]
    for other in (EXAMPLE, *OTHERS):
        assert same(extractor(X, other)["output"], model(X, other)), extractor.code
