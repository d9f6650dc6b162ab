"""Refuse to write out code by which one mode hands something on to the other in Python."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fxfeat.eager.implicit_inputs import around_writes, is_opened, opened_in, shared_path, to_observe, to_run
from fxfeat.eager.repeated_calls import check_repeats
from fxfeat.errors import TraceError
from fxfeat.ir.emission import Emission
from fxfeat.ir.guard import AttributeRead, spell_attribute
from fxfeat.ir.recording import Recording
from fxfeat.trace.setup import Setup

Place = tuple[str, str]
"""The path of a module, and the name of an attribute."""


@dataclass(frozen=True)
class Mode:
    """A mode, a recording in it, and the code of that."""

    training: bool
    recording: Recording
    emission: Emission


def check_modes(setup: Setup, mine: Mode, other: Mode) -> None:
    """Raise where the features of a mode go by what code of the other mode leaves in Python.

    Args:
        setup: the model and how it was recorded.
        mine: the mode whose features are asked about.
        other: the other one.

    Raises:
        TraceError: naming the attribute, and the module that has to be called whole for it.
    """
    _check_settings(setup, mine, other)
    reads = list(_reads_of_the_other(mine, other))
    own = _changed(mine)
    for read in reads:
        if _place(read) not in own:
            raise _refuse(setup, mine, other, read)
    # What both change may be a cache, which changes nothing of what is computed.
    lost = own & _unwritten(other) - _unwritten(mine)
    names = list(dict.fromkeys([*map(_place, reads), *sorted(lost)]))
    if names:
        observation = to_observe(setup, mine.recording, mine.training, mine.emission)
        around = shared_path(_around(mine, other, reads, lost))
        check_repeats(to_run(setup, mine.recording), observation, names, around, between=other.training)


def _check_settings(setup: Setup, mine: Mode, other: Mode) -> None:
    """Raise where code sets an attribute to what it was when recorded, and the other mode sets it to something else."""
    changed, opened = _changed(other), opened_in(mine.emission)
    for write in mine.recording.unchanged:
        if (write.path, write.name) in changed and is_opened(mine.recording, write, opened):
            name = spell_attribute(write.path, write.name)
            raise TraceError(
                f"{type(setup.model).__name__} sets {name!r} at {write.where}, to something else in train mode than "
                "in eval mode, which written-out code does not. Ask for features outside the module that does so.",
                path=shared_path(around_writes([write], mine.recording)),
                reason=f"its code sets {name!r} by the mode",
            )


def _changed(mode: Mode) -> set[Place]:
    return {(write.path, write.name) for write in mode.recording.attribute_writes} | {
        *mode.recording.changed_attributes
    }


def _unwritten(mode: Mode) -> set[Place]:
    """List what code that is written out changed when it was recorded."""
    opened, recording = opened_in(mode.emission), mode.recording
    writes = {(write.path, write.name) for write in recording.attribute_writes if is_opened(recording, write, opened)}
    return writes | {place for place in recording.changed_attributes if place[0] in opened}


def _reads_of_the_other(mine: Mode, other: Mode) -> Iterator[AttributeRead]:
    """Yield the reads of what the other mode changes, unless modules that run whole do both."""
    written_out, changed, unwritten = opened_in(mine.emission), _changed(other), _unwritten(other)
    for read in mine.recording.attribute_reads:
        is_written_out = is_opened(mine.recording, read, written_out)
        if _place(read) in unwritten or (_place(read) in changed and is_written_out):
            yield read


def _place(read: AttributeRead) -> Place:
    return read.reading.path, read.reading.name


def _refuse(setup: Setup, mine: Mode, other: Mode, read: AttributeRead) -> TraceError:
    name, modes = spell_attribute(*_place(read)), {True: "train mode", False: "eval mode"}
    return TraceError(
        f"{type(setup.model).__name__} changes {name!r} in {modes[other.training]} and goes by it in "
        f"{modes[mine.training]}, which written-out code does not. Ask for features outside the module that does so, "
        "or make it a buffer.",
        path=shared_path(_around(mine, other, [read])),
        reason=f"{modes[mine.training]} goes by {name!r}, which {modes[other.training]} changes",
    )


def _around(mine: Mode, other: Mode, reads: list[AttributeRead], lost: Collection[Place] = ()) -> list[str]:
    """List the modules that read some attributes, that have them, and that set them."""
    places = {*map(_place, reads), *lost}
    writes = [write for write in other.recording.attribute_writes if (write.path, write.name) in places]
    readers = (mine.recording.module_calls[read.module_call].path for read in reads)
    return [*(path for path, _ in places), *readers, *around_writes(writes, other.recording)]
