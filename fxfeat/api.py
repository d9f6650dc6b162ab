"""torchvision's two functions, for every model, and the pipeline from a request to emitted code."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeGuard

from torch import nn

from fxfeat.codegen.extractor import FeatureExtractor, build_extractor
from fxfeat.codegen.retracing import OnGuard, Retracing, check_on_guard
from fxfeat.eager.between_modes import Mode, check_modes
from fxfeat.eager.checked import Checked
from fxfeat.eager.emit_checked import emit_checked, emit_in_train_mode
from fxfeat.eager.implicit_inputs import MakeDraft
from fxfeat.eager.stopping import leaves_undone
from fxfeat.eager.tap_recorded import tap_recorded
from fxfeat.eager.tap_unrecorded import tap_unrecorded
from fxfeat.errors import FxfeatError, NodeNotFoundError, RequestError, TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission, ModeVariants, ReturnType, Source, list_tapped
from fxfeat.ir.engine import Engine, check_engine
from fxfeat.ir.recording import Recording
from fxfeat.isolation.entry_points import FORWARD, entered_by
from fxfeat.isolation.own_modes import find_unlike
from fxfeat.names.record_named import record_named, select_features
from fxfeat.names.replaced import read_replace
from fxfeat.names.request import read_request
from fxfeat.names.several import Request
from fxfeat.names.table import name_nodes
from fxfeat.opening.choose_taps import choose_taps, warn_of
from fxfeat.passes.left_out import list_state, memory_of_state, state_to_keep
from fxfeat.trace.copied_recording import are_clear
from fxfeat.trace.setup import Setup, read_setup, record_mode, trace_each_mode

Asked = Sequence[Any] | Mapping[Any, str] | type[nn.Module]


@dataclasses.dataclass(frozen=True)
class Options:
    """How an extractor is made, besides what it returns and the example that it is recorded with."""

    tracer_kwargs: dict[str, Any] | None
    concrete_args: dict[str, Any] | None
    flatten: bool
    engine: Engine
    replace: Mapping[str, Callable[[Any], Any]]
    method: str
    return_type: ReturnType


def get_graph_node_names(
    model: nn.Module,
    tracer_kwargs: dict[str, Any] | None = None,
    suppress_diff_warning: bool = False,
    concrete_args: dict[str, Any] | None = None,
    *,
    example_inputs: Any = None,
    method: str = FORWARD,
) -> tuple[list[str], list[str]]:
    """List the names of the nodes of a model that produce tensors, in the order in which they run.

    Example:
        >>> import torch
        >>> train_names, eval_names = get_graph_node_names(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
        >>> eval_names
        ['input', '0', '1']

    Args:
        model: any module; it is not changed.
        tracer_kwargs: ``leaf_modules``, ``autowrap_functions`` and ``autowrap_modules``, as for torchvision.
        suppress_diff_warning: do not warn where the two lists differ.
        concrete_args: values of arguments of ``forward`` that are no tensors.
        example_inputs: a tensor, a tuple of positional arguments or a mapping of keyword arguments of any sizes that
            the model takes; worked out from the model if not given.
        method: the method to run in place of ``forward``.

    Returns:
        The names in train mode and in eval mode.

    Raises:
        TraceError: where the model cannot be run on the example.

    Source: torchvision's ``get_graph_node_names``.
    """
    with entered_by(model, method):
        setup = read_setup(model, tracer_kwargs, concrete_args, example_inputs)
        train = name_nodes(record_mode(setup, True)).listed
        evaluation = name_nodes(record_mode(setup, False)).listed
    if train != evaluation and not suppress_diff_warning:
        warnings.warn(
            "The model's nodes differ between train and eval mode. To ask for a node that one mode alone has, pass "
            "train_return_nodes= and eval_return_nodes= instead of return_nodes=.",
            stacklevel=2,
        )
    return train, evaluation


def create_feature_extractor(
    model: nn.Module,
    return_nodes: Asked | None = None,
    train_return_nodes: Asked | None = None,
    eval_return_nodes: Asked | None = None,
    tracer_kwargs: dict[str, Any] | None = None,
    suppress_diff_warning: bool = False,
    concrete_args: dict[str, Any] | None = None,
    *,
    example_inputs: Any = None,
    flatten: bool = False,
    engine: Engine = "auto",
    return_type: ReturnType = "dict",
    replace: Mapping[str, Callable[[Any], Any]] | None = None,
    method: str = FORWARD,
    on_guard: OnGuard = "raise",
) -> FeatureExtractor:
    """Make a module that returns inner values of a model, as a dict.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        >>> extractor = create_feature_extractor(model, {"1": "map"})
        >>> extractor(torch.zeros(1, 3, 8, 8))["map"].shape
        torch.Size([1, 8, 6, 6])

    Args:
        model: any module; it is not changed, and the extractor shares its submodules and parameters.
        return_nodes: names of nodes or modules, or a mapping from name to key. ``name@k`` is call k of a module,
            ``name@*`` a list of what all calls returned, ``name[0]`` and ``name['key']`` an element of it, ``name:in``
            what the module was called with, ``output`` the model's own result. ``blocks.*`` and classes of modules
            stand for several, each under its name, or under ``{"blocks.*": "b{}"}``.
        train_return_nodes: what to return in train mode, where it is not the same.
        eval_return_nodes: what to return in eval mode, where it is not the same.
        tracer_kwargs: ``leaf_modules``, ``autowrap_functions`` and ``autowrap_modules``, as for torchvision.
        suppress_diff_warning: accepted for torchvision's sake; a name that one mode lacks is an error in that mode.
        concrete_args: values of arguments of ``forward`` that are no tensors.
        example_inputs: a tensor, a tuple of positional arguments or a mapping of keyword arguments; worked out from the
            model if not given.
        flatten: write every module out down to the leaves, for those who go on with fx passes of their own.
        engine: ``auto`` writes code, and leaves the smallest modules whole whose code cannot be written out, copying
            values out of them by hooks. ``code`` raises there, and ``tap`` leaves the whole model as it is.
        return_type: ``dict``, or a ``tuple`` or ``list`` in the order asked.
        replace: functions or modules by name: the value of that name goes through it, and what follows uses the result,
            as it does where a forward hook returns another value. Modules become the extractor's own.
        method: the method to extract from, in place of ``forward``; names are those of its run, ``output`` its result.
        on_guard: ``raise`` a ``GuardError`` where an input takes another path than the one recorded, or ``retrace``:
            record for that input as well, and keep both (``extractor.variants``).

    Returns:
        The extractor. Each value is bit for bit what a forward hook that clones would have seen.

    Raises:
        NodeNotFoundError: for a name that the model does not have.
        RequestError: for a request that contradicts itself.
        TraceError: for a model or a step that cannot be recorded.

    Source: torchvision's ``create_feature_extractor``.
    """
    requests = _read_requests(return_nodes, train_return_nodes, eval_return_nodes)
    options = Options(
        tracer_kwargs, concrete_args, flatten, check_engine(engine), read_replace(replace), method, return_type
    )
    again = check_on_guard(on_guard) == "retrace"
    retracing = Retracing(model, lambda model, example: _create(model, requests, options, example)) if again else None
    extractor = _create(model, requests, options, example_inputs, retracing)
    warn_of_taps(options.engine, extractor.original, *(emission.source for emission in extractor.forms.emissions))
    return extractor


def extract_from(setup: Setup, names: Mapping[str, str]) -> FeatureExtractor:
    """Make an extractor of a model that was recorded before, for its levels say.

    Args:
        setup: the model and how to record it, as ``create_feature_extractor`` sets it up for an example and an engine.
        names: the keys of the values by name.

    Raises:
        TraceError: for a step that cannot be recorded.
    """
    request = read_request(names)
    modes = _emit_modes(setup, {True: request, False: request}, flatten=False)
    extractor = build_extractor(modes, setup.model)
    warn_of_taps(setup.engine, extractor.original, *(emission.source for emission in extractor.forms.emissions))
    return extractor


def _create(
    model: nn.Module,
    requests: dict[bool, Request],
    options: Options,
    example_inputs: Any,
    retracing: Retracing | None = None,
) -> FeatureExtractor:
    with entered_by(model, options.method):
        setup = read_setup(model, options.tracer_kwargs, options.concrete_args, example_inputs, options.engine)
        setup.replace, setup.method = options.replace, options.method
        modes = _emit_modes(setup, requests, options.flatten)
    variants = dataclasses.replace(modes, method=options.method)
    return build_extractor(variants, setup.model, options.tracer_kwargs, options.return_type, retracing)


def _read_requests(both: Any, train: Any, evaluation: Any) -> dict[bool, Request]:
    if both is not None and (train is not None or evaluation is not None):
        raise RequestError("Pass return_nodes=, or train_return_nodes= and eval_return_nodes=, not both.")
    if both is None and (train is None or evaluation is None):
        missing = "return_nodes" if train is None and evaluation is None else "the other of the two as well"
        raise RequestError(f"Pass {missing}: return_nodes=, or train_return_nodes= and eval_return_nodes= together.")
    if both is not None:
        request = read_request(both)
        return {True: request, False: request}
    return {True: read_request(train, "train_return_nodes"), False: read_request(evaluation, "eval_return_nodes")}


def _emit_modes(setup: Setup, requests: dict[bool, Request], flatten: bool) -> ModeVariants:
    current = setup.model.training
    forms: dict[bool, Emission | FxfeatError] = {}
    for training in (current, not current):
        try:
            forms[training] = emit_request(setup, training, requests[training], flatten)
        except (NodeNotFoundError, TraceError) as error:
            forms[training] = error
    _check_forms(forms[current], forms[not current], requests[True] is requests[False])
    _tap_what_modes_hand_on(setup, requests, flatten, forms)
    _keep_state_of_each_other(setup, requests, flatten, forms)
    mixed = emit_request(setup, None, requests[current], flatten) if _is_mixed(setup.model) else None
    return ModeVariants(forms[True], forms[False], mixed)


def _tap_what_modes_hand_on(
    setup: Setup, requests: dict[bool, Request], flatten: bool, forms: dict[bool, Emission | FxfeatError]
) -> None:
    """Leave modules whole in both modes by which one mode hands something on to the other in Python."""
    emissions = {training: form for training, form in forms.items() if isinstance(form, Emission)}
    if len(emissions) < len(forms) or not any(map(_is_written_out, forms.values())):
        return
    try:
        recordings = {training: record_named(setup, training, requests[training]) for training in emissions}
    except TraceError:
        return  # one mode runs whole as it cannot be recorded

    def attempt(tapped: Mapping[str, str]) -> None:
        for training in (True, False) if tapped else ():
            emissions[training] = emit_request(setup, training, requests[training], flatten, tapped=tapped)
        train, evaluation = (Mode(training, recordings[training], emissions[training]) for training in (True, False))
        if "" not in tapped:
            check_modes(setup, train, evaluation)
            check_modes(setup, evaluation, train)

    attempt({}) if setup.engine == "code" else choose_taps(attempt)
    forms.update(emissions)


def _is_written_out(form: Emission | FxfeatError) -> TypeGuard[Emission]:
    """Say whether a mode has code, of which the whole model is no part."""
    return isinstance(form, Emission) and not form.source.runs_whole


def _keep_state_of_each_other(
    setup: Setup, requests: dict[bool, Request], flatten: bool, forms: dict[bool, Emission | FxfeatError]
) -> None:
    """Emit again where a mode leaves out updates of what the other uses, as of averages that only one reads."""
    for training, other in ((True, forms[False]), (False, forms[True])):
        form = forms[training]
        if not isinstance(form, Emission) or not isinstance(other, Emission):
            return
        state = _state_to_keep(setup, training, requests[training], form, other)
        if state:
            forms[training] = emit_request(setup, training, requests[training], flatten, kept=state)


def _state_to_keep(setup: Setup, training: bool, request: Request, form: Emission, other: Emission) -> frozenset[str]:
    try:
        recording = record_named(setup, training, request)
    except TraceError:  # the model runs whole as it cannot be recorded
        return (
            list_state((name for name, _ in setup.model.named_buffers(remove_duplicate=False)), other)
            if any(call.stops for call in form.tapped)
            else frozenset()
        )
    return state_to_keep(recording, form, other)


def _check_forms(current: Emission | FxfeatError, other: Emission | FxfeatError, is_one_request: bool) -> None:
    """Raise the error of a mode that is to be had now; what one mode lacks is missed where that mode is used.

    A model may leave out layers at random, and whole branches in one of its modes.
    """
    if isinstance(current, TraceError) or (isinstance(current, FxfeatError) and isinstance(other, FxfeatError)):
        raise current
    for form in (current, other):
        if isinstance(form, NodeNotFoundError) and not is_one_request:
            raise form


def _is_mixed(model: nn.Module) -> bool:
    """Say whether modules are in other modes than the model's own ``train`` or ``eval`` puts them in."""
    unlike = find_unlike(model).get("train()" if model.training else "eval()", ())
    modules = model.named_modules(remove_duplicate=False)
    return any((module.training != model.training) != (path in unlike) for path, module in modules)


def emit_request(
    setup: Setup,
    training: bool | None,
    request: Request,
    flatten: bool = False,
    on_model: bool = False,
    kept: frozenset[str] = frozenset(),
    tapped: Mapping[str, str] = MappingProxyType({}),
) -> Emission:
    """Emit the code for values asked for by name.

    Args:
        setup: the model and how to record it.
        training: the mode.
        request: the names by key.
        flatten: write every module out down to the leaves.
        on_model: write code that runs on the model's own tree of modules.
        kept: parameters and buffers to keep up, by path, whether or not these values need them.
        tapped: modules that are to stay whole, by path, with the reasons.

    Raises:
        NodeNotFoundError: for a name that the model does not have in this mode.
        TraceError: for a step that cannot be written out.
    """
    how = How(flatten, on_model, kept, not on_model, tuple(tapped.items()))
    emission = _emit_once(setup, training, request, how)
    if leaves_undone(setup, training, emission):
        return _emit_once(setup, training, request, dataclasses.replace(how, may_stop=False))
    return emission


@dataclasses.dataclass(frozen=True)
class How:
    """How code is written: its arguments are those of ``emit_request``; ``may_stop`` lets modules be stopped early."""

    flatten: bool
    on_model: bool
    kept: frozenset[str]
    may_stop: bool
    tapped: tuple[tuple[str, str], ...]


def _emit_once(setup: Setup, training: bool | None, request: Request, how: How) -> Emission:
    if setup.engine == "tap":
        return _emit_whole(setup, training, request, "engine='tap' was asked for", how)

    def attempt(tapped: Mapping[str, str]) -> Emission:
        if "" in tapped:
            return _emit_whole(setup, training, request, tapped[""], how)

        def make(recording: Recording) -> Draft:
            recording = dataclasses.replace(recording, kept=memory_of_state(recording, how.kept))
            draft = Draft(recording, recording.graph, select_features(recording, request), flatten=how.flatten)
            return dataclasses.replace(draft, on_model=how.on_model, tapped=tapped, may_stop=how.may_stop)

        return _emit_code(setup, training, request, make, dataclasses.replace(how, tapped=tuple(tapped.items())))

    return attempt({}) if setup.engine == "code" else choose_taps(attempt, dict(how.tapped))


def _emit_code(setup: Setup, training: bool | None, request: Request, make: MakeDraft, how: How) -> Emission:
    """Emit the code of a mode; once for both where the model does the same in both."""
    recording = record_named(setup, training, request)
    if recording.derived and not are_clear(recording, make(recording).features):
        setup = trace_each_mode(setup)
        recording = record_named(setup, training, request)
    if recording.derived:
        with contextlib.suppress(TraceError):
            evaluation = _check(setup, record_named(setup, False, request), False, request, make, how)
            emission = emit_in_train_mode(setup, evaluation, make)
            if emission is not None:
                return emission
    return _check(setup, recording, training, request, make, how).emission


def _check(
    setup: Setup, recording: Recording, training: bool | None, request: Request, make: MakeDraft, how: How
) -> Checked:
    """Emit once what is asked for again; the request is kept, so that its identity stays its own."""
    key = (training, id(request), how)
    if key not in setup.checked:
        _, other = setup.checked.get((not training, id(request), how), (request, None))
        setup.checked[key] = request, emit_checked(setup, recording, training, make, other)
    return setup.checked[key][1]


def warn_of_taps(engine: Engine, model: str, *sources: Source) -> None:
    """Say which modules emitted code runs whole, unless that was asked for."""
    if engine != "tap":
        warn_of(list_tapped(*sources), model)


def _emit_whole(setup: Setup, training: bool | None, request: Request, reason: str, how: How) -> Emission:
    """Emit code that runs the whole model and taps it."""
    if setup.method != FORWARD:
        raise TraceError(
            f"{type(setup.model).__name__} runs whole, which only its forward can: {reason}. So there is no extractor "
            f"of {setup.method!r} here; ask for features outside of what cannot be written out."
        )
    if setup.replace:
        raise TraceError(
            f"{type(setup.model).__name__} runs whole, and nothing can be replaced inside what does: {reason}. Put a "
            "forward hook that returns the other value on the model before the extractor is made, or replace a value "
            "outside."
        )
    try:
        recording = record_named(setup, training, request)
    except TraceError as error:
        if error.path is None:
            raise
        return tap_unrecorded(setup, training, request, reason, error, how.on_model, how.may_stop, how.kept)
    recording = dataclasses.replace(recording, kept=memory_of_state(recording, how.kept))
    features = list(select_features(recording, request))
    return tap_recorded(recording, features, setup.examples[0], reason, how.on_model, how.may_stop)
