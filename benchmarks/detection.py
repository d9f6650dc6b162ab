"""Build, train and run detectors on many backbones; write ``benchmarks/results/detection.md``.

    python -m benchmarks.detection            # all that has not run yet
    python -m benchmarks.detection swin_t     # these again

Each line of the table is Mask R-CNN on one model, small enough for a CPU: two training steps in two processes with
``DistributedDataParallel`` on gloo without ``find_unused_parameters``, the first on two images of 333x517, the second
on two of 256x256, then inference on both sizes. Results are kept in ``benchmarks/results/.cache/detection``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fxfeat
from fxfeat import detection

FOLDER = Path(__file__).parent / "results"
CACHE = FOLDER / ".cache" / "detection"
SIZES = ((333, 517), (256, 256))
LIMIT = 1200
"""Seconds that one model may take."""

SMALL: dict[str, Any] = {
    "out_channels": 64,
    "min_size": 192,
    "max_size": 320,
    "rpn_pre_nms_top_n_train": 200,
    "rpn_post_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_test": 30,
    "box_batch_size_per_image": 32,
    "box_detections_per_img": 5,
    "box_score_thresh": 0.0,
}


class Plain(nn.Module):
    """A network such as a user may write: no stages, no names, strides by pools and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.b = nn.Conv2d(16, 32, 3, padding=1)
        self.c = nn.Conv2d(32, 64, 3, padding=1)
        self.d = nn.Conv2d(64, 64, 3, stride=2, padding=1)
        self.e = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        x = self.a(x)
        x = nn.functional.max_pool2d(torch.relu(self.b(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.c(x)), 2)
        return self.e(torch.relu(self.d(x)).mean((2, 3)))


def _timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False)

    return build


def _transformers(name: str, **config: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config))

    return build


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: getattr(torchvision.models, name)
        for name in (
            *("resnet18", "resnet50", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf"),
            *("densenet121", "swin_t", "swin_v2_t", "vit_b_16"),
        )
    },
    **{
        f"timm {name}": _timm(name)
        for name in (
            *("convnext_atto", "hrnet_w18_small", "ese_vovnet19b_slim_dw", "dla46x_c", "ghostnet_050"),
            *("swin_tiny_patch4_window7_224", "pvt_v2_b0", "vit_tiny_patch16_224", "hiera_tiny_224", "fastvit_t8"),
        )
    },
    "transformers ResNet": _transformers("ResNet", embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1] * 4),
    "transformers ConvNext": _transformers("ConvNext", hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 2, 1]),
    "transformers Swin": _transformers("Swin", embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]),
    "transformers Dinov2": _transformers("Dinov2", hidden_size=96, num_hidden_layers=3, num_attention_heads=3),
    "transformers Segformer": _transformers("Segformer", hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1]),
    "a user's own": Plain,
    "maxvit_t": torchvision.models.maxvit_t,
}
OTHERS = ("resnet18", "swin_t", "timm vit_tiny_patch16_224")


def make_targets(images: list[torch.Tensor], keypoints: bool = False) -> list[dict[str, torch.Tensor]]:
    """Make up two objects for each image."""
    targets = []
    for image in images:
        boxes = torch.tensor([[20.0, 30.0, 120.0, 150.0], [100.0, 60.0, 230.0, 200.0]])
        masks = torch.zeros(2, *image.shape[-2:], dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        target = {"boxes": boxes, "labels": torch.tensor([1, 1 if keypoints else 2]), "masks": masks}
        if keypoints:
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            target["keypoints"] = torch.cat([centres, torch.ones(2, 1)], 1)[:, None].repeat(1, 17, 1)
        targets.append(target)
    return targets


def make_images(size: tuple[int, int], rank: int) -> list[torch.Tensor]:
    """Make up two images."""
    generator = torch.Generator().manual_seed(rank)
    return [torch.rand(3, *size, generator=generator) for _ in range(2)]


def build(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build Mask R-CNN on a model; check that the model is as it was."""
    torch.manual_seed(0)
    model = MODELS[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    start = time.process_time()
    detector = detection.mask_rcnn(model, 3, freeze_norm=True, trainable_levels=3, **SMALL)
    backbone = detector.backbone
    check(all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model was changed")
    check(all(held.requires_grad for held in model.parameters()), "the model's parameters were frozen")
    return detector, {
        "seconds": time.process_time() - start,
        "strides": backbone.strides,
        "channels": list(backbone.body.channels),
        "divisor": backbone.size_divisibility,
        "fixed": backbone.fixed_size,
        "norms": sum(isinstance(held, torchvision.ops.FrozenBatchNorm2d) for held in backbone.body.modules()),
    }


def train(detector: nn.Module, rank: int, port: int) -> dict[str, Any]:
    """Train for two steps beside another process."""
    backbone = detector.backbone
    norms = {key: value.clone() for key, value in backbone.body.named_buffers()}
    trainable = {key for key, held in backbone.body.named_parameters() if held.requires_grad}
    frozen = {key: held.detach().clone() for key, held in backbone.body.named_parameters() if not held.requires_grad}
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(detector.train())
    optimizer = torch.optim.SGD([held for held in detector.parameters() if held.requires_grad], lr=1e-4)
    losses = [step(wrapped, optimizer, make_images(size, rank)) for size in SIZES]
    check(all(math.isfinite(loss) for loss in losses), f"losses {losses}")
    missing = [key for key, held in detector.named_parameters() if held.requires_grad and held.grad is None]
    check(not missing, f"no gradient for {missing[:3]}")
    gradient = first_gradient(backbone, trainable)
    check(gradient > 0, "no gradient reached the first level that is trained")
    for key, value in backbone.body.named_buffers():
        check(torch.equal(value, norms[key]), f"{key} changed")
    for key, held in backbone.body.named_parameters():
        check(key not in frozen or torch.equal(held, frozen[key]), f"{key} changed")
    dist.barrier()
    dist.destroy_process_group()
    return {"losses": losses, "gradient": gradient}


def predict(detector: nn.Module) -> None:
    """Check what is found, and the maps of the backbone on images that are not resized or padded before."""
    backbone = detector.eval().backbone
    for size in SIZES:
        with torch.no_grad():
            found = detector(make_images(size, 0))
            maps = backbone(torch.stack(make_images(size, 0)))
        for held in found:
            check(held["masks"].shape[-2:] == size, f"masks of {tuple(held['masks'].shape)}")
            check(all(value.isfinite().all().item() for value in held.values()), "not finite")
        check([*maps] == list(backbone.levels.names), f"levels {[*maps]}")
        for level, stride in zip(maps.values(), backbone.strides, strict=True):
            expected = [side / stride for side in size]
            fits = all(abs(side - wish) <= 1 for side, wish in zip(level.shape[-2:], expected, strict=True))
            check(fits, f"a level of {tuple(level.shape)} at stride {stride} for an image of {size}")


def check_all_used(name: str) -> None:
    """Check that where everything is trained, every parameter gets a gradient."""
    backbone = fxfeat.fpn_backbone(MODELS[name](), out_channels=32).train()
    sum(level.sum() for level in backbone(torch.stack(make_images(SIZES[1], 0))).values()).backward()
    missing = [key for key, held in backbone.named_parameters() if held.requires_grad and held.grad is None]
    check(not missing, f"with all levels trained, no gradient for {missing[:3]}")


def step(wrapped: nn.Module, optimizer: torch.optim.Optimizer, images: list[torch.Tensor], **kwargs: Any) -> float:
    """Take one training step; return the loss."""
    optimizer.zero_grad()
    loss = sum(wrapped(images, make_targets(images, **kwargs)).values())
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def first_gradient(backbone: fxfeat.FPNBackbone, trainable: set[str]) -> float:
    """Measure the gradient of the first of the parameters that are trained, in the order of the model."""
    first = next(held for key, held in backbone.body.named_parameters() if key in trainable and held.dim() > 1)
    assert first.grad is not None
    return float(first.grad.abs().sum())


def train_other(kind: str, name: str) -> dict[str, Any]:
    """Build another detector and train it for one step."""
    torch.manual_seed(0)
    sizes = {"min_size": 192, "max_size": 320}
    make = {"RetinaNet": detection.retinanet, "FCOS": detection.fcos, "Keypoint R-CNN": detection.keypoint_rcnn}[kind]
    options = SMALL if kind == "Keypoint R-CNN" else sizes
    detector = make(MODELS[name](), 2 if kind == "Keypoint R-CNN" else 3, freeze_norm=True, **options)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
    images = make_images(SIZES[0], 0)
    loss = step(detector.train(), optimizer, images, keypoints=kind == "Keypoint R-CNN")
    check(math.isfinite(loss), f"loss {loss}")
    missing = [key for key, held in detector.named_parameters() if held.requires_grad and held.grad is None]
    check(not missing, f"no gradient for {missing[:3]}")
    with torch.no_grad():
        found = detector.eval()(images)
    return {"losses": [loss], "strides": detector.backbone.strides, "found": len(found[0]["boxes"])}


def check(held: bool, message: str) -> None:
    """Raise where something does not hold."""
    if not held:
        raise AssertionError(message)


def run_pair(name: str, port: int) -> dict[str, Any]:
    """Build a detector, train it in two processes, and predict in one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.pt"
        # Started before anything is differentiated: PyTorch forbids it afterwards.
        other = mp.get_context("fork").Process(target=_train_beside, args=(path, port), daemon=True)
        other.start()
        detector, result = build(name)
        torch.save(detector, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        result.update(train(detector, 0, port))
        predict(detector)
        check_all_used(name)
        other.join()
        check(other.exitcode == 0, "the other process failed")
    return result


def _train_beside(path: Path, port: int) -> None:
    """Wait for the detector to be saved, and train it as the second process."""
    while not path.exists():
        time.sleep(0.2)
    train(torch.load(path, weights_only=False), 1, port)


def _work(name: str, port: int, path: str) -> None:
    os.setsid()  # the process that it forks ends with it
    torch.set_num_threads(1)
    kind, _, other = name.partition(" on ")
    try:
        result = train_other(kind, other) if other else run_pair(name, port)
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-3000:]}
    Path(path).write_text(json.dumps(result, indent=1), encoding="utf-8")


def run(name: str) -> dict[str, Any]:
    """Run one line of the table in processes of its own."""
    path = CACHE / f"{name.replace(' ', '_')}.json"
    path.unlink(missing_ok=True)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    start = time.perf_counter()
    worker = mp.get_context("fork").Process(target=_work, args=(name, port, str(path)))
    worker.start()
    worker.join(LIMIT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.join()
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"error": "took too long or was killed"}
    result["wall"] = time.perf_counter() - start
    path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def write_report(results: dict[str, dict[str, Any]]) -> None:
    """Write the table."""
    versions = [held.__version__.partition("+")[0] for held in (torch, torchvision)]
    titles = ["model", "strides", "the model's channels", "multiple of", "fixed size", "frozen norms", "losses"]
    titles += ["build, CPU s", "result"]
    lines = [
        "# Detectors on many backbones",
        "",
        "Mask R-CNN with `freeze_norm=True, trainable_levels=3`, in two processes on gloo without",
        "`find_unused_parameters`: two training steps (two images of 333x517 in each process, then two of 256x256),",
        "then inference on both sizes. Checked: finite losses; a gradient for every parameter that is trained, and one",
        "greater than zero in the first level that is; frozen norms and parameters unchanged after the steps; the",
        "user's model unchanged; masks of the images' sizes; maps of the sizes that the strides say, with the backbone",
        "called on 333x517 directly; and with all levels trained, a gradient for every parameter of the backbone.",
        f"torch {versions[0]}, torchvision {versions[1]}, CPU.",
        "`python -m benchmarks.detection` writes this page.",
        "",
        f"| {' | '.join(titles)} |",
        f"| {' | '.join('---' for _ in titles)} |",
    ]
    lines += [_row(name, result) for name, result in results.items() if " on " not in name]
    lines += ["", "One training step and inference at 333x517:", ""]
    lines += ["| detector | strides | loss | result |", "| --- | --- | --- | --- |"]
    lines += [_short_row(name, result) for name, result in results.items() if " on " in name]
    failed = [name for name, result in results.items() if "error" in result]
    lines += ["", f"{len(results) - len(failed)} of {len(results)} pass."]
    (FOLDER / "detection.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(name: str, result: dict[str, Any]) -> str:
    if "error" in result:
        return f"| {name} | | | | | | | | {result['error'].splitlines()[0][:200]} |"
    fixed = "x".join(map(str, result["fixed"])) if result["fixed"] else ""
    cells = [
        *(name, ", ".join(map(str, result["strides"])), ", ".join(map(str, result["channels"]))),
        *(str(result["divisor"]), fixed, str(result["norms"])),
        *(", ".join(f"{loss:.2f}" for loss in result["losses"]), f"{result['seconds']:.1f}", "passes"),
    ]
    return f"| {' | '.join(cells)} |"


def _short_row(name: str, result: dict[str, Any]) -> str:
    if "error" in result:
        return f"| {name} | | | {result['error'].splitlines()[0][:200]} |"
    return f"| {name} | {', '.join(map(str, result['strides']))} | {result['losses'][0]:.2f} | passes |"


def main(wanted: list[str]) -> None:
    """Run what is asked for, or all that has not run yet, and write the report."""
    CACHE.mkdir(parents=True, exist_ok=True)
    others = [f"{kind} on {name}" for kind in ("RetinaNet", "FCOS", "Keypoint R-CNN") for name in OTHERS]
    results: dict[str, dict[str, Any]] = {}
    for name in [*MODELS, *others]:
        path = CACHE / f"{name.replace(' ', '_')}.json"
        if name in wanted or (not wanted and not path.exists()):
            result = run(name)
            print(f"{name:40} {result['wall']:6.1f} s  {result.get('error', 'passes')}", flush=True)
        if path.exists():
            results[name] = json.loads(path.read_text(encoding="utf-8"))
    write_report(results)


if __name__ == "__main__":
    main(sys.argv[1:])
