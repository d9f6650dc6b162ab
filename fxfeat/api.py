"""torchvision's two functions, for every model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fxfeat.checked import emit_request
from fxfeat.emit.extractor import Emission, FeatureExtractor, Forms, build_extractor
from fxfeat.errors import RequestError, TraceError
from fxfeat.modes import Setup, read_setup, record_mode
from fxfeat.name.table import name_nodes
from fxfeat.select.features import read_request

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

    Returns:
        The extractor. Each value is bit for bit what a forward hook that clones would have seen.

    Raises:
        NodeNotFoundError: for a name that the model does not have.
        RequestError: for a request that contradicts itself.
        TraceError: for a model or a step that cannot be recorded.

    Source: torchvision's ``create_feature_extractor``.
    """
    requests = _read_requests(return_nodes, train_return_nodes, eval_return_nodes)
    setup = read_setup(model, tracer_kwargs, concrete_args, example_inputs)
    return build_extractor(_emit_modes(setup, requests, flatten), setup.model, tracer_kwargs)


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


def _emit_modes(setup: Setup, requests: dict[bool, dict[str, str]], flatten: bool) -> Forms:
    current = setup.model.training
    forms: dict[bool, Emission | TraceError] = {}
    forms[current] = emit_request(setup, current, requests[current], flatten)
    try:
        forms[not current] = emit_request(setup, not current, requests[not current], flatten)
    except TraceError as error:
        forms[not current] = error
    mixed = emit_request(setup, None, requests[current], flatten) if _is_mixed(setup.model) else None
    return Forms(forms[True], forms[False], mixed)


def _is_mixed(model: nn.Module) -> bool:
    return any(module.training != model.training for module in model.modules())
