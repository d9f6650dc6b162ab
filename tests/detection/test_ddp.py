"""DistributedDataParallel trains a detector without ``find_unused_parameters``: two processes on gloo."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from fxfeat import detection
from tests.detection.models import IMAGE, Staged


def _work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=2)
    torch.manual_seed(0)
    detector = detection.faster_rcnn(
        *(Staged(), 3),
        **{"freeze_norm": True, "trainable_levels": 3, "example_inputs": IMAGE, "out_channels": 16},
        **{"min_size": 96, "max_size": 128, "rpn_post_nms_top_n_train": 20},
    )
    model = DistributedDataParallel(detector.train())
    for step in range(2):  # parameters that got no gradient would stop the second step
        torch.manual_seed(10 * step + rank)
        images = [torch.rand(3, 90, 111), torch.rand(3, 96, 80)]
        target = {"boxes": torch.tensor([[10.0, 12, 60, 70]]), "labels": torch.tensor([1 + rank])}
        sum(model(images, [dict(target), dict(target)]).values()).backward()
    torch.save([held.grad for held in detector.parameters() if held.requires_grad], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_steps_in_two_processes(tmp_path):
    mp.spawn(_work, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(first) > 20
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, second, strict=True))
