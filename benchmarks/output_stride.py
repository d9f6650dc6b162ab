"""Compare fxfeat's output stride with timm's and torchvision's own, and prove it where they have none.

Run from the root of the project, with timm installed:

    python benchmarks/output_stride.py

Writes ``benchmarks/results/output_stride.md``. With names of models only these run, and the page's other rows stay:

    python benchmarks/output_stride.py ecaresnet26t gernet_s
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from fxfeat import FxfeatError
from fxfeat.stride import limit_stride, prove

RESULT = Path(__file__).parent / "results" / "output_stride.md"
STRIDES = (16, 8)
IMAGE = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
EXAMPLE = torch.rand(2, 3, 128, 128)

TIMM = {
    "resnet": ("resnet18", "resnet26d", "resnetblur50", "resnetaa50", "ecaresnet26t", "seresnet50"),
    "resnest": ("resnest14d", "resnest50d_1s4x24d"),
    "res2net": ("res2net50_26w_4s", "res2next50"),
    "regnet": ("regnety_002", "regnetx_002", "regnetz_b16"),
    "efficientnet": ("efficientnet_b0", "tf_efficientnet_b0", "mixnet_s", "efficientnet_es", "mnasnet_small"),
    "mobilenetv3": ("mobilenetv3_small_050", "tf_mobilenetv3_small_minimal_100", "lcnet_050", "mobilenetv4_conv_small"),
    "byobnet": ("repvgg_a0", "gernet_s", "resnet33ts", "mobileone_s0"),
    "convnext": ("convnext_atto", "convnext_atto_ols", "convnextv2_atto"),
    "cspnet": ("cspresnet50", "cspdarknet53", "darknet17"),
    "nfnet": ("nf_regnet_b0", "dm_nfnet_f0", "nf_resnet26"),
    "rexnet": ("rexnet_100", "rexnetr_100"),
    "xception_aligned": ("xception41", "xception41p"),
    "sknet": ("skresnet18", "skresnext50_32x4d"),
    "inception_next": ("inception_next_atto",),
    "resnetv2": ("resnetv2_50x1_bit", "resnetv2_50d"),
}
LEVELS_ONLY = ("mobilenetv3",)
"""Families whose classifier takes no output_stride; timm has it for their levels."""

PROVED = (
    *(("timm", name, 224) for name in ("vgg11", "vgg11_bn")),
    *(("timm", name, 64) for name in ("dla34", "dla46_c", "densenet121", "ghostnet_050", "ghostnetv2_100")),
    *(("timm", name, 64) for name in ("hardcorenas_a", "dpn68", "ese_vovnet19b_dw", "selecsls42", "resnet18")),
    *(("torchvision", name, 64) for name in ("efficientnet_b0", "efficientnet_v2_s", "mobilenet_v2", "mnasnet0_5")),
    *(("torchvision", name, 64) for name in ("shufflenet_v2_x0_5", "squeezenet1_1", "regnet_y_400mf", "densenet121")),
)
REFUSED = (
    *(("timm", name) for name in ("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "mobilevit_xxs")),
    *(("timm", name) for name in ("coatnet_nano_rw_224", "levit_128s", "hrnet_w18_small", "botnet26t_256")),
    *(("torchvision", name) for name in ("swin_t", "maxvit_t", "vit_b_32")),
)


Row = tuple[str, ...]
"""One model at one output stride: the cells of a table."""

Job = tuple[Row, Callable[[], Row]]
"""The first cells of a row, and what finds out the others."""


@dataclass(frozen=True)
class Section:
    """One table of the page, and what its rows should say."""

    title: str
    text: str
    head: Row
    jobs: Callable[[], Iterator[Job]]
    is_good: Callable[[Row], bool]


def compare_with_timm() -> Iterator[Job]:
    """Load the same weights into timm's dilated model and compare maps."""
    for family, names in TIMM.items():
        for name in names:
            for stride in STRIDES:
                yield (family, name, str(stride)), partial(_compare, name, stride, family in LEVELS_ONLY)


def _compare(name: str, stride: int, levels: bool) -> Row:
    try:
        torch.manual_seed(0)
        plain = timm.create_model(name, features_only=levels).eval()
        theirs = timm.create_model(name, features_only=levels, output_stride=stride).eval()
        theirs.load_state_dict(plain.state_dict())
        if not levels:
            plain, theirs = _without_head(plain), _without_head(theirs)
        expected = _maps(theirs)
    except Exception as error:
        return "-", "-", f"timm: {type(error).__name__}: {_first_line(error)}"
    start = time.perf_counter()
    try:
        changed = limit_stride(plain, stride, example_inputs=EXAMPLE)
        actual = _maps(changed)
    except FxfeatError as error:
        return "no", "-", _first_line(error)
    seconds = f"{time.perf_counter() - start:.1f} s"
    if [held.shape for held in actual] != [held.shape for held in expected]:
        return "no", "-", "other shapes"
    pairs = list(zip(actual, expected, strict=True))
    if all(torch.equal(a, b) for a, b in pairs):
        return "bit for bit", "0", seconds
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return "no", f"{worst:.1e}", _explain(theirs, changed)


def _without_head(model: nn.Module) -> nn.Module:
    """Leave the map alone where the model's class can; else the classifier's numbers are compared."""
    with contextlib.suppress(AssertionError):
        model.reset_classifier(0, "")  # type: ignore[operator]
    return model


def _explain(theirs: nn.Module, ours: nn.Module) -> str:
    """Say which layers have other settings."""
    known = dict(ours.named_modules())
    for path, layer in theirs.named_modules():
        if isinstance(layer, nn.Conv2d) and repr(layer) != repr(known.get(path)):
            if layer.kernel_size == (1, 1):
                return f"timm dilates the 1x1 `{path}`, which changes the order of additions alone"
            return f"`{path}` has stride {layer.stride}, dilation {layer.dilation} in timm, here {known.get(path)}"
    return "the order of additions"


def _maps(model: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(IMAGE)
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]


def compare_with_torchvision() -> Iterator[Job]:
    """Compare with ``replace_stride_with_dilation``."""
    for name in ("resnet50", "wide_resnet50_2", "resnext50_32x4d"):
        for replaced, stride in (((False, False, True), 16), ((False, True, True), 8), ((True, True, True), 4)):
            yield (name, str(stride)), partial(_compare_torchvision, name, list(replaced), stride)


def _compare_torchvision(name: str, replaced: list[bool], stride: int) -> Row:
    plain = _load("torchvision", name)
    theirs = torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=replaced).eval()
    theirs.load_state_dict(plain.state_dict())
    ours = limit_stride(plain, stride, example_inputs=EXAMPLE)
    return ("bit for bit" if torch.equal(_maps(ours)[0], _maps(theirs)[0]) else "no",)


def _load(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name).eval()
    model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    return model


def prove_all() -> Iterator[Job]:
    """Prove models that have no output stride of their own."""
    for library, name, size in PROVED:
        for stride in STRIDES:
            yield (library, name, str(stride)), partial(_prove, library, name, size, stride)


def _prove(library: str, name: str, size: int, stride: int) -> Row:
    try:
        proof = prove(_load(library, name), stride, example_inputs=torch.rand(1, 3, size, size))
    except FxfeatError as error:
        return "-", "-", "-", _first_line(error)
    inside = [held for held in proof.breaks if held.inside]
    counts = (str(proof.compared), str(proof.dense), f"{proof.max_abs_diff:.0e}")
    reasons = "; ".join(dict.fromkeys(held.reason for held in inside))
    return (*counts, "exact" if proof.ok else f"exact but for {len(inside)}: {reasons} (first `{inside[0].name}`)")


def refuse_all() -> Iterator[Job]:
    """Show what is said where a model has no dense counterpart."""
    for library, name in REFUSED:
        yield (library, name), partial(_refuse, library, name)


def _refuse(library: str, name: str) -> Row:
    try:
        limit_stride(_load(library, name), 8)
    except FxfeatError as error:
        return (str(error).split(". ")[0],)
    return ("not refused",)


SECTIONS = (
    Section(
        "Against timm",
        "The same weights in timm's model with `output_stride=` and in fxfeat's, a 96x96 image, on the CPU.",
        ("family", "model", "output stride", "equal", "largest relative difference", "time, or why"),
        compare_with_timm,
        lambda row: row[3] in ("bit for bit", "-") or (row[4] != "-" and float(row[4]) < 1e-5),
    ),
    Section(
        "Against torchvision",
        "The same, with `replace_stride_with_dilation=`.",
        ("model", "output stride", "equal"),
        compare_with_torchvision,
        lambda row: row[2] == "bit for bit",
    ),
    Section(
        "Proved",
        "Every value of the dense model in float64, subsampled, against the model's own. What pools over all positions "
        "sees more of them; the comparison goes on behind it with the original's value.",
        ("library", "model", "output stride", "compared", "denser", "largest difference", "verdict"),
        prove_all,
        lambda row: row[6] == "exact" or (row[6].startswith("exact but for") and "; " not in row[6]),
    ),
    Section(
        "Refused",
        "What is said at `output_stride=8` where a model has no dense counterpart with the same weights.",
        ("library", "model", "error"),
        refuse_all,
        lambda row: row[2] != "not refused",
    ),
)


def read_page() -> dict[Row, Row]:
    """Read the rows of the page that is there, by section and first cells."""
    found: dict[Row, Row] = {}
    title = ""
    for line in RESULT.read_text().splitlines() if RESULT.exists() else ():
        title = line[3:] if line.startswith("## ") else title
        if line.startswith("| "):
            row = tuple(line[2:-2].split(" | "))
            found[(title, *row[:2])] = found[(title, *row[:3])] = row
    return found


def write_section(section: Section, rows: list[Row]) -> str:
    """Write one table."""
    lines = [f"## {section.title}", "", section.text, ""]
    lines += [f"| {' | '.join(section.head)} |", f"|{' --- |' * len(section.head)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    good = sum(map(section.is_good, rows))
    return "\n".join([*lines, "", f"{good} of {len(rows)} as they should be.", ""])


def main() -> int:
    """Run everything, or the models that are named, and write the page."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    again = set(sys.argv[1:])
    kept = read_page() if again else {}
    written, good = ["# Output stride", ""], True
    for section in SECTIONS:
        rows: list[Row] = []
        for first, run in section.jobs():
            old = kept.get((section.title, *first))
            rows.append(old if old is not None and not again.intersection(first) else first + run())
            print(" | ".join(rows[-1]), flush=True)
            gc.collect()
        written.append(write_section(section, rows))
        good &= all(map(section.is_good, rows))
        RESULT.write_text("\n".join(written))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
