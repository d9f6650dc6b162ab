"""Write out an extractor down to torch's own modules."""

from __future__ import annotations

import copy
from typing import Any

import torch

from fxfeat.codegen.extractor import FeatureExtractor, build_extractor
from fxfeat.eager.checked import Checked
from fxfeat.eager.emit_modes import emit_modes
from fxfeat.errors import FxfeatError, RequestError, TraceError
from fxfeat.inputs.examples import read_example
from fxfeat.inputs.sketches import draw
from fxfeat.ir.emission import Emission, ModeVariants
from fxfeat.ir.example import Example
from fxfeat.ir.tree import spell
from fxfeat.names.request import read_request
from fxfeat.names.several import Request
from fxfeat.trace.leaves import ONLY_TORCH
from fxfeat.trace.setup import read_setup


def flatten_extractor(extractor: FeatureExtractor, example: Example) -> FeatureExtractor:
    """Record an extractor and write it out, so that torch alone is called; its parts have the paths that they had.

    Raises:
        TraceError: where it cannot all be written out.
    """
    modes, _ = emit_flat(extractor, example)
    flat = build_extractor(modes, extractor, _only_torch(extractor), extractor.return_type)
    flat.original = extractor.original
    return flat


def _refuse_lost_checks(extractor: FeatureExtractor, modes: ModeVariants) -> None:
    """Raise where an extractor checks something that it does not check any more once it is recorded itself."""
    for mine, flat in ((extractor.forms.train, modes.train), (extractor.forms.eval, modes.eval)):
        if not isinstance(mine, Emission) or not isinstance(flat, Emission):
            continue
        kept = {check.place for check in flat.guards}
        # Which dtype goes with which is found out anew, and what whole modules return is computed in the open.
        lost = (check for check in mine.guards if check.place not in kept and not _is_found_anew(check.place))
        if (check := next(lost, None)) is not None:
            raise TraceError(
                f"{extractor.original} cannot be written out in full, for what is checked at {check.place} cannot be "
                "checked there. Pickle the extractor instead."
            )


def emit_flat(extractor: FeatureExtractor, example: Example) -> tuple[ModeVariants, Checked]:
    """Emit for an extractor what calls torch alone; return that, and what was checked of it in eval mode.

    Raises:
        TraceError: where it cannot all be written out.
    """
    refuse_tapped(extractor)
    setup = read_setup(extractor, _only_torch(extractor), None, example.args, "code")
    setup.examples = (example,)
    requests = {
        training: _ask_for_all(extractor, form)
        for training, form in ((True, extractor.forms.train), (False, extractor.forms.eval))
    }
    try:
        modes = emit_modes(setup, requests, flatten=True)
    except TraceError as error:
        raise TraceError(f"{extractor.original} cannot be written out in full: {error}", path=error.path) from error
    if isinstance(modes.eval, FxfeatError):
        raise modes.eval
    _refuse_lost_checks(extractor, modes)
    return modes, next(each for _, each in setup.checked.values() if each.emission is modes.eval)


def _is_found_anew(place: str) -> bool:
    return "dtype" in place or place.startswith("what ")


def _only_torch(extractor: FeatureExtractor) -> dict[str, Any]:
    return {**extractor.tracer_kwargs, ONLY_TORCH: True}


def example_of(extractor: FeatureExtractor, example_inputs: Any) -> Example:
    """Return an example that an extractor takes.

    Raises:
        RequestError: where none is given, and the extractor remembers none.
    """
    if example_inputs is not None:
        return read_example(example_inputs)
    if extractor.example is None:
        raise RequestError(
            "This extractor is a copy, which remembers no example input. Pass example_inputs=, for instance "
            "example_inputs=torch.rand(2, 3, 224, 224)."
        )
    parameter = next(extractor.parameters(), None)
    return draw(extractor.example, torch.device("cpu") if parameter is None else parameter.device)


def copy_extractor(extractor: FeatureExtractor) -> FeatureExtractor:
    """Copy an extractor with its parameters and buffers.

    Raises:
        TraceError: where torch cannot copy a part, such as a layer whose weight an old ``weight_norm`` has computed.
    """
    try:
        return copy.deepcopy(extractor)
    except RuntimeError as error:
        raise TraceError(f"{extractor.original} cannot be copied, which this takes: {error}") from error


def refuse_tapped(extractor: FeatureExtractor) -> None:
    """Raise where a module runs whole with hooks, for whose code there is no text."""
    tapped = next(iter(extractor.tapped), None)
    if tapped is not None:
        raise TraceError(
            f"{tapped.path or extractor.original} cannot be written out, for it runs whole: {tapped.reason}. Save the "
            "model's package along with the weights, or ask for features in front of it.",
            path=tapped.path,
        )


def _ask_for_all(extractor: FeatureExtractor, form: Emission | FxfeatError) -> Request:
    """Ask for everything that an extractor returns, under the keys that it has.

    ``output`` would be another thing where the model has a module of that name.
    """
    rows = form.rows if isinstance(form, Emission) else extractor.forms.emissions[0].rows
    if extractor.return_type != "dict":
        return read_request({f"[{place}]": row.key for place, row in enumerate(rows)})
    return read_request({spell((("item", row.key),)): row.key for row in rows})
