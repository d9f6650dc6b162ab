"""A model recorded in one mode, from which code is emitted, and emitted again for other inputs."""

from __future__ import annotations

import dataclasses

from fxfeat.codegen.emit import emit
from fxfeat.eager.implicit_inputs import MakeDraft
from fxfeat.ir.assumptions import AS_IT_IS, Assumptions
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission
from fxfeat.ir.example import Example
from fxfeat.ir.recording import Recording
from fxfeat.passes.run_passes import rewrite
from fxfeat.trace.setup import Setup, record_variant


@dataclasses.dataclass(frozen=True)
class OneMode:
    """A model recorded in one mode, under some assumptions, and what is wanted of that recording and of others."""

    setup: Setup
    training: bool | None
    make: MakeDraft
    recording: Recording
    draft: Draft
    assumptions: Assumptions = AS_IT_IS


def emit_draft(draft: Draft) -> Emission:
    """Run the passes over a draft, and emit it."""
    return emit(rewrite(draft)[0])


def record_assuming(mode: OneMode, assumptions: Assumptions) -> Recording:
    """Record again, told otherwise."""
    return record_variant(mode.setup, mode.recording, mode.training, assumptions=assumptions)


def record_again(mode: OneMode, assumptions: Assumptions) -> tuple[OneMode, Emission]:
    """Put a recording that was told otherwise in place of the first."""
    recording = record_assuming(mode, assumptions)
    draft = mode.make(recording)
    return dataclasses.replace(mode, recording=recording, draft=draft, assumptions=assumptions), emit_draft(draft)


def record_at(mode: OneMode, example: Example) -> Recording:
    """Record with another example."""
    return record_variant(mode.setup, mode.recording, mode.training, example, assumptions=mode.assumptions)


def emit_at(mode: OneMode, example: Example) -> Emission:
    """Emit for another example."""
    return emit_draft(mode.make(record_at(mode, example)))
