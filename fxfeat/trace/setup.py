"""Record a model in one mode, with an example that suits it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fxfeat.errors import RequestError, TraceError
from fxfeat.inputs.examples import copy_example, read_example
from fxfeat.inputs.guesses import Guesses
from fxfeat.ir.assumptions import AS_IT_IS, Assumptions
from fxfeat.ir.engine import Engine, check_engine
from fxfeat.ir.example import Example
from fxfeat.ir.recording import Kind, Recording
from fxfeat.ir.tree import tensors
from fxfeat.ir.value_replacement import Replacement
from fxfeat.isolation.entry_points import FORWARD
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.preserved import copy_values, lent_buffers, preserved, restore_values
from fxfeat.isolation.torch_settings import same_switches, same_tiny_numbers
from fxfeat.isolation.unwrap import unwrap
from fxfeat.trace.builder.train_mode import names_mode, sets_modes_plainly
from fxfeat.trace.copied_recording import derive_training
from fxfeat.trace.fake_tensors import Recast
from fxfeat.trace.leaves import Leaves, choose_leaves
from fxfeat.trace.run import KINDS, OTHER_INPUTS, describe_example, record


@dataclass
class Setup:
    """What to record, and how; remembers the example that worked, the recordings made with it, and ``checked`` code.

    ``one_trace`` says that one trace may serve both modes.
    """

    model: nn.Module
    tracer_kwargs: dict[str, Any]
    examples: Sequence[Example]
    guessed: bool
    engine: Engine = "code"
    replace: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    method: str = FORWARD
    one_trace: bool = True
    checked: dict[Any, Any] = field(default_factory=dict)
    _recordings: dict[Any, Recording] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is one of another model, and nodes refer to each other in a chain that is too deep to copy.
        return {**self.__dict__, "checked": {}, "_recordings": {}}

    @property
    def name_for_replacements(self) -> str:
        """What an extractor calls the modules that values go through: no name that the model has."""
        name = "replacements"
        while hasattr(self.model, name):
            name += "_"
        return name


def read_setup(
    model: nn.Module,
    tracer_kwargs: dict[str, Any] | None,
    concrete_args: dict[str, Any] | None,
    example_inputs: Any,
    engine: Any = "code",
) -> Setup:
    """Check the arguments that the public functions share.

    Raises:
        RequestError: where one has a wrong type.
        TraceError: for a scripted or traced model, or where no example can be worked out.
    """
    if not isinstance(model, nn.Module):
        raise RequestError(f"model is a {type(model).__name__}; it must be a torch.nn.Module.")
    check_engine(engine)
    model = unwrap(model)
    _check_runs_in_python(model)
    _check_sizes(model)
    choose_leaves(tracer_kwargs)
    if example_inputs is not None:
        given = read_example(example_inputs)
        examples: Sequence[Example] = (Example(given.args, {**given.kwargs, **(concrete_args or {})}),)
    else:
        examples = Guesses(model, concrete_args)
    if next(iter(examples), None) is None:
        raise TraceError(
            f"fxfeat found no convolution, embedding, recurrent or linear layer in {type(model).__name__} to work an "
            "example input out from. Pass example_inputs=, for instance example_inputs=torch.rand(2, 3, 224, 224)."
        )
    return Setup(model, dict(tracer_kwargs or {}), examples, example_inputs is None, engine)


def _check_runs_in_python(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            f"model is a {type(model).__name__}: what torch.jit scripted or traced no longer runs in Python, so it "
            "cannot be looked into. Pass the nn.Module that it was made from."
        )


def _check_sizes(model: nn.Module) -> None:
    parts = itertools.chain(model.named_parameters(), model.named_buffers())
    name = next((name for name, tensor in parts if is_lazy(tensor)), None)
    if name is not None:
        raise TraceError(
            f"{name!r} of {type(model).__name__} has no size yet. Run the model once on a real input, then wrap it."
        )


def record_mode(
    setup: Setup,
    training: bool | None,
    opened: frozenset[str] = frozenset(),
    replacements: tuple[Replacement, ...] = (),
) -> Recording:
    """Record the model in one mode.

    Args:
        setup: the model and what is to be tried.
        training: True for train mode, False for eval mode, None for the flags as they are.
        opened: leaves to enter after all.
        replacements: values that go through functions, as found in a recording without.

    Raises:
        TraceError: where no example works.
    """
    key = (training, opened, bool(replacements))
    if key not in setup._recordings:
        derived = _derive(setup, opened, replacements) if training else None
        setup._recordings[key] = derived or _try_examples(setup, training, opened, replacements)
    return setup._recordings[key]


def trace_each_mode(setup: Setup) -> Setup:
    """Return another setup, in which no trace serves both modes."""
    return replace(setup, one_trace=False, checked={}, _recordings={})


def _derive(setup: Setup, opened: frozenset[str], replacements: tuple[Replacement, ...]) -> Recording | None:
    """Make the recording in train mode of that in eval mode; None where it takes a run of its own."""
    if not setup.one_trace or replacements or not sets_modes_plainly(setup.model):
        return None
    if (False, opened, False) not in setup._recordings and names_mode(setup.model):
        return None
    try:
        recording = record_mode(setup, False, opened, replacements)
    except TraceError:
        return None
    return derive_training(recording) if recording.same_in_training else None


def _try_examples(
    setup: Setup, training: bool | None, opened: frozenset[str], replacements: tuple[Replacement, ...]
) -> Recording:
    leaves = choose_leaves(setup.tracer_kwargs, opened)
    tried: list[TraceError] = []
    # All examples on the cheapest fake tensors first: a wrong size fails on any, and real ones are slow.
    rounds: tuple[tuple[Kind, ...], ...] = (
        (("meta",), ("fake",), ("real",)) if setup.guessed else (("meta", "fake", "real"),)
    )
    for kinds in rounds:
        for example in setup.examples:
            try:
                recording = _record_guess(setup, example, leaves, training, kinds, replacements)
                recording = _as_given(setup, recording, training, example)
            except TraceError as error:
                tried.append(error)
                continue
            setup.examples, setup.guessed = (example,), False
            return recording
    raise _explain_replaced(setup, tried[-1], replacements) if replacements else _explain(setup, training, tried)


def _as_given(setup: Setup, recording: Recording, training: bool | None, example: Example) -> Recording:
    """Record again where one tensor is given twice, and code goes by that: it has other names than for two tensors."""
    given = [id(tensor) for _, tensor in tensors((example.args, example.kwargs))]
    if len(set(given)) == len(given):
        return recording
    together = _record_as(setup, recording, training, example, None, Assumptions(same_tensor="together"))
    if _calls_of(together) == _calls_of(recording):
        return recording
    return _record_as(setup, recording, training, example, None, Assumptions(same_tensor="checked"))


def _calls_of(recording: Recording) -> list[tuple[str, Any]]:
    return [(node.op, node.target) for node in recording.nodes]


def _explain_replaced(setup: Setup, error: TraceError, replacements: tuple[Replacement, ...]) -> TraceError:
    """Say that a model, which runs as it is, does not with the values that were put in place of its own."""
    cause = error.__cause__
    failure = str(error) if cause is None else f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}"
    were = " and ".join(f"{each.name!r} (in the model {each.before})" for each in replacements)
    return TraceError(
        f"{type(setup.model).__name__} runs as it is, but not with replace= for {were}: {failure.rstrip('.')}. A "
        "function in replace= must take the value, and return one that what follows takes."
    )


def _record_guess(
    setup: Setup,
    example: Example,
    leaves: Leaves,
    training: bool | None,
    kinds: tuple[Kind, ...],
    replacements: tuple[Replacement, ...],
) -> Recording:
    """Record with an example; on dearer tensors where the cheapest fail for what they are, not for their sizes."""
    try:
        return record(setup.model, example, leaves, training, kinds, replacements=replacements)
    except TraceError as error:
        others = KINDS[KINDS.index(kinds[-1]) + 1 :]
        if kinds != KINDS[:1] or not _is_about_stand_ins(error):
            raise
    return record(setup.model, example, leaves, training, others, replacements=replacements)


def _explain_given(setup: Setup, training: bool | None, error: TraceError) -> TraceError:
    """Say that a model runs on its example as it is, where that is so: then no other inputs would help."""
    text = str(error)
    if not text.endswith(OTHER_INPUTS) or not _runs(setup, training):
        return error
    told = f"{text.removesuffix(OTHER_INPUTS)} The model runs on these inputs as it is: engine='tap' leaves it whole."
    explained = TraceError(told, path=error.path, reason=error.reason)
    explained.__cause__ = error.__cause__
    return explained


def _runs(setup: Setup, training: bool | None) -> bool:
    example, parameters = copy_example(setup.examples[0]), copy_values(setup.model.parameters())
    with preserved(setup.model) as before, same_switches(), same_tiny_numbers(), torch.no_grad():
        try:
            if training is not None:
                set_mode(setup.model, training)
            with lent_buffers(setup.model, also=before):
                setup.model(*example.args, **example.kwargs)
        except Exception:
            return False
        finally:
            restore_values(parameters)  # an embedding may scale its own down
    return True


def _explain(setup: Setup, training: bool | None, tried: list[TraceError]) -> TraceError:
    if len(setup.examples) == 1:
        return _explain_given(setup, training, tried[-1])
    shown = ", ".join(describe_example(example) for example in setup.examples[:4])
    return TraceError(
        f"No input worked out for {type(setup.model).__name__} runs (tried {shown}). Pass example_inputs=. "
        f"The first failure: {tried[0]}",
        path=tried[0].path,
        reason=tried[0].reason,
    )


def record_variant(
    setup: Setup,
    recording: Recording,
    training: bool | None,
    example: Example | None = None,
    recast: Recast | None = None,
    assumptions: Assumptions = AS_IT_IS,
) -> Recording:
    """Record again as a recording was made, but with another example, in another dtype or told otherwise.

    Raises:
        TraceError: where the model does not run that way.
    """
    chosen = example or setup.examples[0]
    if recording.derived:
        variant = _record_as(setup, recording, False, chosen, recast, assumptions)
        if variant.same_in_training:
            return derive_training(variant)
    return _record_as(setup, recording, training, chosen, recast, assumptions)


def _record_as(
    setup: Setup,
    recording: Recording,
    training: bool | None,
    example: Example,
    recast: Recast | None,
    assumptions: Assumptions,
) -> Recording:
    leaves, replacements = choose_leaves(setup.tracer_kwargs, recording.opened), recording.replacements
    try:
        return record(setup.model, example, leaves, training, (recording.kind,), recast, assumptions, replacements)
    except TraceError as error:
        others = KINDS[KINDS.index(recording.kind) + 1 :]
        if not others or not _is_about_stand_ins(error):
            raise
    # At another size the code may ask for values that a cache answered at the first.
    return record(setup.model, example, leaves, training, others, recast, assumptions, replacements)


def _is_about_stand_ins(error: TraceError) -> bool:
    """Say whether a run failed because its tensors have no values, which others may have."""
    told = f"{type(error.__cause__).__name__} {error.__cause__}".lower()
    return any(word in told for word in ("meta", "fake", "data-dependent", "datadependent", "device"))
