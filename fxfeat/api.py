"""torchvision's two functions, for every model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from fxfeat.codegen.extractor import FeatureExtractor, build_extractor
from fxfeat.codegen.retracing import OnGuard, Retracing, check_on_guard
from fxfeat.eager.emit_modes import emit_modes
from fxfeat.eager.emit_request import warn_of_taps
from fxfeat.errors import RequestError
from fxfeat.inputs.sketches import sketch
from fxfeat.ir.emission import ReturnType
from fxfeat.ir.engine import Engine, check_engine
from fxfeat.isolation.entry_points import FORWARD, entered_by
from fxfeat.names.replaced import read_replace
from fxfeat.names.request import read_request
from fxfeat.names.several import Request
from fxfeat.names.table import name_nodes
from fxfeat.trace.setup import Setup, read_setup, record_mode

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
    _warn(options.engine, extractor)
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
    modes = emit_modes(setup, {True: request, False: request}, flatten=False)
    extractor = build_extractor(modes, setup.model)
    extractor.example = sketch(setup.examples[0])
    _warn(setup.engine, extractor)
    return extractor


def _warn(engine: Engine, extractor: FeatureExtractor) -> None:
    warn_of_taps(engine, extractor.original, *(emission.source for emission in extractor.forms.emissions))


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
        modes = emit_modes(setup, requests, options.flatten)
    variants = dataclasses.replace(modes, method=options.method)
    extractor = build_extractor(variants, setup.model, options.tracer_kwargs, options.return_type, retracing)
    extractor.example = sketch(setup.examples[0])
    return extractor


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
