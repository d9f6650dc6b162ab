"""DistributedDataParallel around an extractor that runs a module whole, without ``find_unused_parameters``."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fxfeat


class Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.late = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        if np.random.uniform() < 2:
            x = self.norm(x)
        return self.late(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 4), Drawing(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(self.stem(x)))


def _inputs(rank: int) -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(rank))


def _build(engine: str) -> fxfeat.FeatureExtractor:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fxfeat.create_feature_extractor(Model(), ["block.norm"], example_inputs=torch.zeros(2, 4), engine=engine)


def _work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=2)
    for engine in ("auto", "tap"):
        model = DistributedDataParallel(_build(engine))
        for _ in range(2):  # parameters that got no gradient would stop the second step
            model.zero_grad()
            model(_inputs(rank))["block.norm"].square().sum().backward()
        torch.save([parameter.grad for parameter in model.parameters()], folder / f"{engine}{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_averaged(tmp_path):
    mp.spawn(_work, (tmp_path,), nprocs=2)
    for engine in ("auto", "tap"):
        first, second = (torch.load(tmp_path / f"{engine}{rank}.pt") for rank in range(2))
        extractor = _build(engine)
        for _ in range(2):
            extractor.zero_grad()
            for rank in range(2):
                (extractor(_inputs(rank))["block.norm"].square().sum() / 2).backward()
        expected = [parameter.grad for parameter in extractor.parameters()]
        assert len(first) == len(expected) == 6
        for mine, theirs, whole in zip(first, second, expected, strict=True):
            assert torch.equal(mine, theirs)
            torch.testing.assert_close(mine, whole)
