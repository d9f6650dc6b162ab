"""How each class is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType

from fxfeat.codegen.extractor import FeatureExtractor
from fxfeat.deploy.optimization import Optimization
from fxfeat.eager.verify import Verification
from fxfeat.ir.shown import Shown
from fxfeat.report.extractor_table import describe_extractor, render_extractor
from fxfeat.report.optimization_table import render_optimization
from fxfeat.report.proof_table import render_proof
from fxfeat.report.verification_table import render_verification
from fxfeat.stride.proof import Proof

_RENDERERS: dict[type[Shown], Callable[[Any], RenderableType]] = {
    FeatureExtractor: render_extractor,
    Verification: render_verification,
    Proof: render_proof,
    Optimization: render_optimization,
}


def render(shown: Shown) -> RenderableType:
    """Return what rich prints for an object of one of these classes."""
    renderer = next(renderer for kind, renderer in _RENDERERS.items() if isinstance(shown, kind))
    return renderer(shown)


def describe(shown: Shown) -> str:
    """Return the same as text; of an extractor, the lines that stand in its module's ``repr``."""
    if isinstance(shown, FeatureExtractor):
        return "\n".join(describe_extractor(shown))
    console = Console(width=120)
    with console.capture() as captured:
        console.print(render(shown))
    return captured.get().rstrip()
