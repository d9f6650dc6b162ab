"""Make the changed model: a copy of its structure that shares every tensor, with other windows in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch import fx, nn

from fxfeat.errors import RequestError, TraceError
from fxfeat.ir.node_meta import meta_of
from fxfeat.isolation.shared_copy import share
from fxfeat.stride.attributes import set_attributes
from fxfeat.stride.change import Change
from fxfeat.stride.image_flow import Flow
from fxfeat.stride.layer_changes import change_layer
from fxfeat.stride.module_places import Places, own, replace
from fxfeat.stride.module_runs import Changes, Run, call_sites, is_as_planned, windows_of
from fxfeat.stride.recordings import record_dense
from fxfeat.stride.refusals import refuse
from fxfeat.stride.windows import Window
from fxfeat.stride.write_out import write_out
from fxfeat.trace.setup import Setup


def apply_changes(setup: Setup, flows: dict[bool, Flow]) -> nn.Module:
    """Copy a model and change its windows.

    Layers get other settings. Calls of functions follow the settings of the module whose ``forward`` makes them, where
    it has such settings; else that ``forward`` is written out with other arguments.

    Raises:
        RequestError: where one layer would need two settings at once.
        TraceError: where a model cannot be copied, or a ``forward`` cannot be written out.
    """
    changed = share(setup.model)
    places = Places(setup.model, flows)
    done = _change_layers(changed, places, flows)
    return _change_codes(changed, setup.model, places, flows, done)


def _change_layers(changed: nn.Module, places: Places, flows: dict[bool, Flow]) -> set[str]:
    """Give layers other settings, and list their paths."""
    layers, done = _layer_changes(flows), set[str]()
    for path, change in layers.items():
        if path in done:
            continue
        paths = places.same_as(path, {other for other, wanted in layers.items() if wanted.agrees(change)})
        layer = change_layer(own(changed, path, paths), flows, change)
        done.update(paths)
        for place in paths:
            replace(changed, place, layer)
    return done


def _change_codes(
    changed: nn.Module, original: nn.Module, places: Places, flows: dict[bool, Flow], done: set[str]
) -> nn.Module:
    """Change what each ``forward`` calls, the innermost first: one that is written out calls modules that are done."""
    codes = _code_changes(flows)
    for path in sorted(codes, key=lambda path: (path.count("."), bool(path)), reverse=True):
        if path in done:
            continue
        paths = places.same_as(path, {other for other, runs in codes.items() if _agree_runs(runs, codes[path])})
        module = own(changed, path, paths)
        written = _change_code(original.get_submodule(path), module, codes[path])
        done.update(paths)
        for place in paths:
            changed = replace(changed, place, written)
    return changed


def _change_code(original: nn.Module, module: nn.Module, runs: dict[bool, Run]) -> nn.Module:
    """Change what a ``forward`` calls by its module's settings, else by writing it out.

    The original is what is run alone: in the changed module, whose children are changed already, shapes may not fit.
    """
    if all(is_as_planned(module, run) for run in runs.values()):
        # Code that reads the settings of the layers it calls, to pad for them, follows them already.
        return module
    changes = next(iter(runs.values())).changes
    trial, settled = set_attributes(original, changes), set_attributes(module, changes)
    if trial is not None and settled is not None and all(is_as_planned(trial, run) for run in runs.values()):
        return settled
    computed = ((run, change) for run in runs.values() for change in run.changes.values() if change.computed)
    for run, change in computed:
        reason = "its padding is worked out from a stride that is no setting of its module"
        refuse(run.flow.recording, change.node, reason)
    return write_out(original, module, runs)


def _layer_changes(flows: dict[bool, Flow]) -> dict[str, Change]:
    """List each layer that changes by the path that it is called by.

    Raises:
        RequestError: where calls by one path want different windows.
    """
    wanted: dict[str, Change] = {}
    for path, change in itertools.chain.from_iterable(map(_calls_of_changed, flows.values())):
        if change is None or not change.agrees(wanted.setdefault(path, change)):
            _refuse_two(path)
    return wanted


def _calls_of_changed(flow: Flow) -> Iterator[tuple[str, Change | None]]:
    """Yield each call of a layer that changes: the path it is called by, and its change, if this call has one."""
    changes = {change.node: change for change in flow.changes if change.node.op == "call_module"}
    paths = {_reached(flow, node) for node in changes}
    calls = (node for node in flow.recording.nodes if node.op == "call_module" and _reached(flow, node) in paths)
    yield from ((_reached(flow, node), changes.get(node)) for node in calls)


def _reached(flow: Flow, node: fx.Node) -> str:
    """Return the path by which the model's code reached the layer that it calls."""
    return flow.recording.module_calls[meta_of(node).module_call].reached


def _code_changes(flows: dict[bool, Flow]) -> dict[str, dict[bool, Run]]:
    """List each ``forward`` with calls of functions to change, by its module's path and the mode.

    Raises:
        RequestError: where two calls of one module want different windows.
    """
    codes: dict[str, dict[bool, Run]] = {}
    for training, flow in flows.items():
        for path in _calling_paths(flow):
            codes.setdefault(path, {})[training] = _first_run(flow, path)
    for path, by_mode in codes.items():
        # A forward that changes in one mode is written out in both.
        others = {training: next(_runs(flows[training], path), None) for training in set(flows) - set(by_mode)}
        by_mode.update({training: run for training, run in others.items() if run is not None})
    return codes


def _calling_paths(flow: Flow) -> set[str]:
    """List the paths of the modules whose own code calls functions that are to change."""
    nodes = (change.node for change in flow.changes if change.node.op != "call_module")
    return {flow.recording.module_calls[meta_of(node).module_call].reached for node in nodes}


def _first_run(flow: Flow, path: str) -> Run:
    runs = list(_runs(flow, path))
    if any(not _agree(run.changes, runs[0].changes) for run in runs):
        _refuse_two(path or type(flow.recording.root).__name__)
    return runs[0]


def _runs(flow: Flow, path: str) -> Iterator[Run]:
    planned = {change.node: change for change in flow.changes}
    for module_call in flow.recording.module_calls:
        if module_call.reached == path:
            sites = call_sites(flow.recording, module_call.index)
            changes = {index: planned[node] for index, node in enumerate(sites) if node in planned}
            yield Run(flow, module_call, changes, len(sites))


def _agree_runs(left: dict[bool, Run], right: dict[bool, Run]) -> bool:
    return left.keys() == right.keys() and all(_agree(left[mode].changes, right[mode].changes) for mode in left)


def _agree(left: Changes, right: Changes) -> bool:
    return left.keys() == right.keys() and all(left[index].agrees(right[index]) for index in left)


def _refuse_two(name: str) -> None:
    raise RequestError(
        f"output_stride cannot be limited here: {name!r} is one module that is called more than once, and its calls "
        "would need different strides or dilations. Give the model a module of its own for each call, or ask for a "
        "larger output_stride."
    )


def check_result(changed: nn.Module, setup: Setup, flow: Flow) -> None:
    """Check that the changed model runs, and does what was planned.

    Raises:
        RequestError: where it does not run.
    """
    try:
        recording = record_dense(changed, setup, flow.recording.training)
    except TraceError as error:
        where = _innermost(changed, error)
        raise RequestError(
            f"output_stride cannot be limited here: {where!r} does not run on the finer maps that this gives, so it is "
            f"bound to their size. Ask for a larger output_stride, or for none. {error}"
        ) from error
    planned, actual = flow.planned, windows_of(recording)
    if planned != actual:
        first = next((pair for pair in zip(planned, actual, strict=False) if pair[0] != pair[1]), (None, None))
        raise RequestError(
            f"output_stride cannot be limited here: the model runs other layers on the finer maps that this gives, "
            f"{_spell(first[1])} in place of {_spell(first[0])}. Ask for a larger output_stride, or for none."
        )


def _spell(window: Window | None) -> str:
    """Spell what slides.

    >>> _spell(None)
    'nothing'
    """
    if window is None:
        return "nothing"
    kinds = {"conv": "a convolution", "max": "a maximum pool", "average": "an average pool"}
    size = "x".join(map(str, window.kernel))
    return (
        f"{kinds.get(window.kind, f'a {window.kind}')} of {size}, strides {window.stride}, dilation {window.dilation}"
    )


def _innermost(model: nn.Module, error: BaseException) -> str:
    """Name the innermost module whose code an error passed through."""
    paths = {id(module): path for path, module in model.named_modules()}
    innermost = type(model).__name__
    trace = (error.__cause__ or error).__traceback__
    while trace is not None:
        path = paths.get(id(trace.tb_frame.f_locals.get("self")))
        innermost, trace = path or innermost, trace.tb_next
    return innermost
