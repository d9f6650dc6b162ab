"""torchvision's two functions, for every model, and the pipeline from a request to emitted code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from fxfeat.codegen.extractor import FeatureExtractor, build_extractor
from fxfeat.eager.emit_checked import emit_checked
from fxfeat.eager.stopping import leaves_undone
from fxfeat.eager.tap_recorded import tap_recorded
from fxfeat.eager.tap_unrecorded import tap_unrecorded
from fxfeat.errors import RequestError, TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission, ModeVariants, Source, list_tapped
from fxfeat.ir.engine import Engine
from fxfeat.ir.recording import Recording
from fxfeat.isolation.own_modes import find_unlike
from fxfeat.names.record_named import record_named, select_features
from fxfeat.names.request import read_request
from fxfeat.names.table import name_nodes
from fxfeat.opening.choose_taps import choose_taps, warn_of
from fxfeat.trace.setup import Setup, read_setup, record_mode

Request = Sequence[str] | Mapping[str, str]


def get_graph_node_names(
    model: nn.Module,
    tracer_kwargs: dict[str, Any] | None = None,
    suppress_diff_warning: bool = False,
    concrete_args: dict[str, Any] | None = None,
    *,
    example_inputs: Any = None,
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
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments of any sizes that the
            model takes; worked out from the model if not given.

    Returns:
        The names in train mode and in eval mode.

    Raises:
        TraceError: where the model cannot be run on the example.

    Source: torchvision's ``get_graph_node_names``.
    """
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
    return_nodes: Request | None = None,
    train_return_nodes: Request | None = None,
    eval_return_nodes: Request | None = None,
    tracer_kwargs: dict[str, Any] | None = None,
    suppress_diff_warning: bool = False,
    concrete_args: dict[str, Any] | None = None,
    *,
    example_inputs: Any = None,
    flatten: bool = False,
    engine: Engine = "auto",
) -> FeatureExtractor:
    """Make a module that returns inner values of a model as a dict.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        >>> extractor = create_feature_extractor(model, {"1": "map"})
        >>> extractor(torch.zeros(1, 3, 8, 8))["map"].shape
        torch.Size([1, 8, 6, 6])

    Args:
        model: any module; it is not changed, and the extractor shares its submodules and parameters.
        return_nodes: names of nodes or modules, or a mapping from name to key. ``name@k`` is call k of a module,
            ``name[0]`` and ``name['key']`` an element of what it returned, ``output`` the model's own result.
        train_return_nodes: what to return in train mode, where it is not the same.
        eval_return_nodes: what to return in eval mode, where it is not the same.
        tracer_kwargs: ``leaf_modules``, ``autowrap_functions`` and ``autowrap_modules``, as for torchvision.
        suppress_diff_warning: accepted for torchvision's sake; fxfeat raises where a name is missing in a mode.
        concrete_args: values of arguments of ``forward`` that are no tensors.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments; worked out from the
            model if not given.
        flatten: write every module out down to the leaves, for those who go on with fx passes of their own.
        engine: ``auto`` writes code, and leaves the smallest modules whole whose code cannot be written out, copying
            values out of them by hooks. ``code`` raises there, and ``tap`` leaves the whole model as it is.

    Returns:
        The extractor. Each value is bit for bit what a forward hook that clones would have seen.

    Raises:
        NodeNotFoundError: for a name that the model does not have.
        RequestError: for a request that contradicts itself.
        TraceError: for a model or a step that cannot be recorded.

    Source: torchvision's ``create_feature_extractor``.
    """
    requests = _read_requests(return_nodes, train_return_nodes, eval_return_nodes)
    setup = read_setup(model, tracer_kwargs, concrete_args, example_inputs, engine)
    extractor = build_extractor(_emit_modes(setup, requests, flatten), setup.model, tracer_kwargs)
    forms = (extractor.forms.train, extractor.forms.eval, extractor.forms.mixed)
    warn_of_taps(setup, *(form.source for form in forms if isinstance(form, Emission)))
    return extractor


def _read_requests(both: Any, train: Any, evaluation: Any) -> dict[bool, dict[str, str]]:
    if both is not None and (train is not None or evaluation is not None):
        raise RequestError("Pass return_nodes=, or train_return_nodes= and eval_return_nodes=, not both.")
    if both is None and (train is None or evaluation is None):
        missing = "return_nodes" if train is None and evaluation is None else "the other of the two as well"
        raise RequestError(f"Pass {missing}: return_nodes=, or train_return_nodes= and eval_return_nodes= together.")
    if both is not None:
        request = read_request(both)
        return {True: request, False: request}
    return {True: read_request(train, "train_return_nodes"), False: read_request(evaluation, "eval_return_nodes")}


def _emit_modes(setup: Setup, requests: dict[bool, dict[str, str]], flatten: bool) -> ModeVariants:
    current = setup.model.training
    forms: dict[bool, Emission | TraceError] = {}
    forms[current] = emit_request(setup, current, requests[current], flatten)
    try:
        forms[not current] = emit_request(setup, not current, requests[not current], flatten)
    except TraceError as error:
        forms[not current] = error
    mixed = emit_request(setup, None, requests[current], flatten) if _is_mixed(setup.model) else None
    return ModeVariants(forms[True], forms[False], mixed)


def _is_mixed(model: nn.Module) -> bool:
    """Say whether modules are in other modes than the model's own ``train`` or ``eval`` puts them in."""
    unlike = find_unlike(model).get("train()" if model.training else "eval()", ())
    modules = model.named_modules(remove_duplicate=False)
    return any((module.training != model.training) != (path in unlike) for path, module in modules)


def emit_request(
    setup: Setup, training: bool | None, request: dict[str, str], flatten: bool = False, on_model: bool = False
) -> Emission:
    """Emit the code for values asked for by name.

    Args:
        setup: the model and how to record it.
        training: the mode.
        request: the names by key.
        flatten: write every module out down to the leaves.
        on_model: write code that runs on the model's own tree of modules.

    Raises:
        NodeNotFoundError: for a name that the model does not have in this mode.
        TraceError: for a step that cannot be written out.
    """
    emission = _emit_once(setup, training, request, flatten, on_model, not on_model)
    if leaves_undone(setup, training, emission):
        return _emit_once(setup, training, request, flatten, on_model, False)
    return emission


def _emit_once(
    setup: Setup, training: bool | None, request: dict[str, str], flatten: bool, on_model: bool, may_stop: bool
) -> Emission:
    if setup.engine == "tap":
        return _emit_whole(setup, training, request, "engine='tap' was asked for", on_model, may_stop)

    def attempt(tapped: Mapping[str, str]) -> Emission:
        if "" in tapped:
            return _emit_whole(setup, training, request, tapped[""], on_model, may_stop)

        def make(recording: Recording) -> Draft:
            draft = Draft(recording, recording.graph, select_features(recording, request), flatten=flatten)
            return replace(draft, on_model=on_model, tapped=tapped, may_stop=may_stop)

        return emit_checked(setup, record_named(setup, training, request), training, make)

    return attempt({}) if setup.engine == "code" else choose_taps(attempt)


def warn_of_taps(setup: Setup, *sources: Source) -> None:
    """Say which modules emitted code runs whole, unless that was asked for."""
    if setup.engine != "tap":
        warn_of(list_tapped(*sources), type(setup.model).__name__)


def _emit_whole(
    setup: Setup, training: bool | None, request: dict[str, str], reason: str, on_model: bool, may_stop: bool
) -> Emission:
    """Emit code that runs the whole model and taps it."""
    try:
        recording = record_named(setup, training, request)
    except TraceError as error:
        if error.path is None:
            raise
        return tap_unrecorded(setup, training, request, reason, error, on_model, may_stop)
    features = list(select_features(recording, request))
    return tap_recorded(recording, features, setup.examples[0], reason, on_model, may_stop)
