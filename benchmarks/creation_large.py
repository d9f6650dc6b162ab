"""How the time to make an extractor grows with the model, what huge models take, and what levels take on top.

Part of ``python -m benchmarks.creation --large``. Each measurement runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import feature_extraction

import fxfeat
from benchmarks.process_time import measure_seconds
from benchmarks.stages import STAGES

CHAINS = (500, 2000, 8000, 16000)
BESIDE_TORCHVISION = 2000
HUGE = ("LlamaModel of 70 billion parameters", "ViTModel of 22 billion parameters")
LEVELS = ("resnet50", "swin_t")


class Block(nn.Module):
    """A residual block of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the layers give to the input."""
        return x + self.relu(self.linear(x))


def measure_chain(length: int) -> dict[str, float]:
    """Measure a chain of blocks: its last block, and all names."""
    x, last = torch.rand(2, 4), str(length - 1)
    small = nn.Sequential(*(Block() for _ in range(4)))
    fxfeat.create_feature_extractor(small, ["3"], example_inputs=x)
    model = nn.Sequential(*(Block() for _ in range(length)))
    seconds = {
        "last block": measure_seconds(lambda: fxfeat.create_feature_extractor(model, [last], example_inputs=x)),
        "names": measure_seconds(lambda: fxfeat.get_graph_node_names(model, example_inputs=x)),
    }
    if length == BESIDE_TORCHVISION:
        seconds["torchvision"] = measure_seconds(lambda: feature_extraction.create_feature_extractor(model, [last]))
    return seconds


def measure_huge(name: str) -> dict[str, float]:
    """List and wrap a huge model on the meta device."""
    import transformers

    llama: dict[str, Any] = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64}
    llama |= {"num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256}
    vit: dict[str, Any] = {"hidden_size": 6144, "num_hidden_layers": 48, "num_attention_heads": 48}
    vit |= {"intermediate_size": 24576, "image_size": 224, "patch_size": 14}
    with torch.device("meta"):
        if name == HUGE[0]:
            model: nn.Module = transformers.LlamaModel(transformers.LlamaConfig(**llama))
        else:
            model = transformers.ViTModel(transformers.ViTConfig(**vit))
    before = _read_peak()
    layers = len(model.get_submodule("layers"))  # type: ignore[arg-type]
    names = measure_seconds(lambda: fxfeat.get_graph_node_names(model, suppress_diff_warning=True))
    create = measure_seconds(
        lambda: fxfeat.create_feature_extractor(model, [f"layers.{layers // 2}", f"layers.{layers - 1}"])
    )
    return {"names": names, "create": create, "MiB": (_read_peak() - before) / 1024}


def _read_peak() -> int:
    """Read the most memory that this process has had, in KiB; what getrusage tells begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure_levels(name: str) -> dict[str, float]:
    """Measure what makes a pyramid, a backbone and a detector's backbone beside an extractor of the same levels."""
    model = torchvision.models.get_model(name, weights=None).eval()
    makers: dict[str, Callable[[], object]] = {
        "create_feature_extractor": lambda: fxfeat.create_feature_extractor(model, STAGES[name]),
        "features_only": lambda: fxfeat.features_only(model),
        "Backbone": lambda: fxfeat.Backbone(model),
        "fpn_backbone": lambda: fxfeat.fpn_backbone(model),
    }
    first = {key: measure_seconds(make) for key, make in makers.items()}
    return {key: min(measure_seconds(make), measure_seconds(make), first[key]) for key, make in makers.items()}


_MEASURES: dict[str, Callable[[Any], dict[str, float]]] = {
    "chain": lambda length: measure_chain(int(length)),
    "huge": measure_huge,
    "levels": measure_levels,
    "import": lambda _: {"seconds": _time_imports()},
}


def _time_imports() -> float:
    def run(line: str) -> float:
        code = f"import time; s = time.perf_counter(); {line}; print(time.perf_counter() - s)"
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    both = [(run("import torch, torchvision, fxfeat"), run("import torch, torchvision")) for _ in range(5)]
    return sorted(ours - theirs for ours, theirs in both)[2]


def measure_apart(what: str, of: object) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.creation_large", what, str(of)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def write_tables() -> list[str]:
    """Measure all, and write the tables."""
    chains = {length: measure_apart("chain", length) for length in CHAINS}
    lines = ["## Chains of residual blocks", "", "| blocks | last block, ms a block | names, ms a block |"]
    lines += ["| ---: | ---: | ---: |"]
    for length, seconds in chains.items():
        last, names = (seconds[key] * 1000 / length for key in ("last block", "names"))
        lines.append(f"| {length} | {last:.2f} | {names:.2f} |")
    beside = chains[BESIDE_TORCHVISION]
    ratio = beside["torchvision"] / beside["last block"]
    lines += ["", f"At {BESIDE_TORCHVISION} blocks torchvision takes {ratio:.1f} times as long.", ""]
    lines += ["## Huge models, on the meta device", "", "| model | names, s | two layers, s | memory, MiB |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for name in HUGE:
        row = measure_apart("huge", name)
        lines.append(f"| {name} | {row['names']:.1f} | {row['create']:.1f} | {row['MiB']:.0f} |")
    lines += ["", "## Levels", "", "Beside `create_feature_extractor` of the same levels, warm.", ""]
    lines += ["| model | features_only | Backbone | fpn_backbone |", "| --- | ---: | ---: | ---: |"]
    for name in LEVELS:
        row = measure_apart("levels", name)
        base = row.pop("create_feature_extractor")
        lines.append(f"| {name} | {' | '.join(f'{seconds / base:.1f}' for seconds in row.values())} |")
    seconds = measure_apart("import", "")["seconds"]
    return [*lines, "", f"`import fxfeat` adds {seconds:.2f} s to `import torch, torchvision`.", ""]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps(_MEASURES[sys.argv[1]](sys.argv[2])))
