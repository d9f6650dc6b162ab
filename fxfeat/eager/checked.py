"""Code with the checks that it needs, and what is known of it by then."""

from __future__ import annotations

import dataclasses

from fxfeat.guards.dtypes import Floats
from fxfeat.ir.assumptions import AS_IT_IS, Assumptions
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import DimStatus, Emission, Purity
from fxfeat.ir.recording import Recording


@dataclasses.dataclass(frozen=True)
class Checked:
    """Code with the checks that it needs, and the draft that it was emitted from.

    ``unchecked`` is the code before anything was found out, under ``assumptions`` about what it was told;
    ``floats`` says what floating dtypes it was found to be good for.
    """

    draft: Draft
    emission: Emission
    unchecked: Emission
    assumptions: Assumptions = AS_IT_IS
    floats: Floats = "any"


def describe(
    emission: Emission, recording: Recording, freedoms: tuple[DimStatus, ...], purity: Purity | None
) -> Emission:
    """Add to an emission what is known of the run that it comes from.

    Args:
        emission: the code.
        recording: the run.
        freedoms: how the sizes of its inputs may vary.
        purity: what a run of the model changes.
    """
    writes = recording.writes_parameters
    return dataclasses.replace(emission, freedoms=freedoms, purity=purity, writes_parameters=writes)
