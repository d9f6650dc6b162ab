"""DistributedDataParallel: two processes on gloo, without ``find_unused_parameters``."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fxfeat


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(self.stem(x)))


def _inputs(rank: int) -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(rank))


def _build() -> fxfeat.FeatureExtractor:
    torch.manual_seed(0)
    return fxfeat.create_feature_extractor(Model(), ["stem", "block"], example_inputs=torch.zeros(2, 4))


def _loss(features: dict[str, torch.Tensor]) -> torch.Tensor:
    return features["stem"].square().sum() + features["block"].sum()


def _work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    # They meet in a file: a free port may be another program's by the time it is used.
    dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=2)
    model = DistributedDataParallel(_build())
    for _ in range(2):  # parameters that got no gradient would stop the second step
        model.zero_grad()
        _loss(model(_inputs(rank))).backward()
    torch.save([parameter.grad for parameter in model.parameters()], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_averaged(tmp_path):
    mp.spawn(_work, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    extractor = _build()
    ((_loss(extractor(_inputs(0))) + _loss(extractor(_inputs(1)))) / 2).backward()
    expected = [parameter.grad for parameter in extractor.parameters()]
    assert len(first) == len(expected) == 4
    for mine, theirs, whole in zip(first, second, expected, strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, whole)  # two sums of two terms, added in another order
