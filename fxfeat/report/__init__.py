"""Renderings for people: tables, trees and short lines.

What is shown knows nothing of how: importing this package gives each class its ``__rich__`` and its text.
"""

from typing import Any

from rich.console import Console

from fxfeat.codegen.extractor import FeatureExtractor
from fxfeat.eager.verify import Verification
from fxfeat.report.extractor_table import describe_extractor, render_extractor
from fxfeat.report.proof_table import render_proof
from fxfeat.report.verification_table import render_verification
from fxfeat.stride.proof import Proof


def _to_text(shown: Any) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().rstrip()


def _describe(extractor: FeatureExtractor) -> str:
    return "\n".join(describe_extractor(extractor))


_SHOWN: tuple[tuple[type, dict[str, Any]], ...] = (
    (FeatureExtractor, {"__rich__": render_extractor, "extra_repr": _describe}),
    (Verification, {"__rich__": render_verification, "__str__": _to_text}),
    (Proof, {"__rich__": render_proof, "__str__": _to_text}),
)
for _class, _methods in _SHOWN:
    for _name, _method in _methods.items():
        setattr(_class, _name, _method)
