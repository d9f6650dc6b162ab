"""The emitted module: a forward of its own, the original's submodules, a dict of features."""

from __future__ import annotations

import importlib
import inspect
import itertools
import linecache
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, get_args

import torch
from torch import fx, nn

from fxfeat.codegen.containers import all_state, plant, plant_replacements, refuse_written_out
from fxfeat.codegen.opened_state import OpenedState, close_opened, take_form
from fxfeat.codegen.own_conversions import find_own_conversions, refuse_own_conversions
from fxfeat.codegen.own_loading import explain_loading, note_loading
from fxfeat.codegen.own_modes_followed import OwnModes, list_parts, read_own_modes
from fxfeat.codegen.retracing import Retracing
from fxfeat.codegen.shared_parts import Shared, follow_shared, list_shared
from fxfeat.codegen.source import write_as
from fxfeat.codegen.tapped_modules import Originals, plant_tapped
from fxfeat.codegen.watched_globals import watch_globals
from fxfeat.errors import FxfeatError, RequestError
from fxfeat.ir.emission import (
    Check,
    DimStatus,
    Emission,
    ModeVariants,
    ReturnType,
    Row,
    Source,
    UsedState,
    list_tapped,
)
from fxfeat.ir.example import Example
from fxfeat.ir.shown import Shown, describe
from fxfeat.ir.source_lines import EXTRACTOR
from fxfeat.ir.tap import TappedCall, TappedModule
from fxfeat.isolation.own_modes import Setting
from fxfeat.isolation.preserved import copy_values, restore_values
from fxfeat.runtime.check import check, leaves_fast_path
from fxfeat.runtime.global_hooks import list_global_hooks
from fxfeat.runtime.replace_part import replace_part
from fxfeat.runtime.run_tapped import run_tapped
from fxfeat.runtime.snapshot import take

Modules = Literal["torch", "given"]
"""Where saved code has its modules from: torch alone, or the model that it is given."""
_serial = itertools.count()


class FeatureExtractor(Shown, nn.Module):
    """A module that computes the features asked for, and nothing else.

    Example:
        >>> import fxfeat, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> extractor = fxfeat.create_feature_extractor(model, ["1"])
        >>> print(extractor.code)
        def forward(self, input):
            input = getattr(self, '0')(input)
            _1 = getattr(self, '1')(input)
            return {'1': _1}
        <BLANKLINE>
        >>> extractor(torch.zeros(2, 4))["1"].shape
        torch.Size([2, 3])

    Source: the interface of torchvision's ``create_feature_extractor``.
    """

    forms: ModeVariants
    is_mixed: bool
    parameters_before: int
    originals: Originals
    opened_state: OpenedState
    left_out: frozenset[str]
    return_type: ReturnType
    own_modes: OwnModes
    converts: str

    example: Example | None = None
    retracing: Retracing | None = None
    shared: Shared = ()

    def __init__(
        self,
        forms: ModeVariants,
        model: nn.Module,
        tracer_kwargs: dict[str, Any] | None = None,
        return_type: ReturnType = "dict",
        retracing: Retracing | None = None,
    ) -> None:
        super().__init__()
        self.return_type = return_type
        self.tracer_kwargs = dict(tracer_kwargs or {})
        self.forms = forms
        self.is_mixed = forms.mixed is not None
        self.parameters_before = sum(parameter.numel() for parameter in model.parameters())
        self.original = type(model).__name__
        emissions = forms.emissions
        used_state, constants = UsedState(frozenset(), frozenset()), {}
        for emission in emissions:
            used_state = used_state | emission.used_state
            constants.update(emission.constants)
        if retracing is not None:
            used_state = used_state | all_state(model)
        note_loading(model, self)
        plant(self, model, used_state, constants)
        for emission in emissions:
            plant_replacements(self, emission.replacements)
        calls = [call for emission in emissions for call in emission.tapped]
        self.originals = Originals({call.path: model.get_submodule(call.path) for call in calls})
        plant_tapped(self, model, used_state, calls)
        self.left_out = frozenset(list_keys(model)) - frozenset(list_keys(self))
        self.training = model.training
        self.own_modes = read_own_modes(model, self)
        self.converts = find_own_conversions(model, self)
        self.opened_state = OpenedState(
            {name: take_form(model, form, self.own_modes, setting) for name, form, setting in _named_emissions(forms)},
            take(list_global_hooks()),
        )
        for name, form, _ in _named_emissions(forms):
            self.opened_state.watch(self, model, name)
            self.opened_state.outside[name] = watch_globals(model, form.opened)
        readings = {reading for emission in emissions for reading in emission.readings}
        self.shared = list_shared(self, model, self.originals.modules, used_state.tensors - set(constants), readings)
        close_opened(self, self.opened_state, RESERVED)
        if retracing is not None:
            self.__dict__.update(retracing=retracing, forward=_retracing_forward(self))

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        if self.retracing is None and not torch.compiler.is_compiling():
            self._check_opened()
        return super()._call_impl(*args, **kwargs)

    def _check_opened(self) -> None:
        follow_shared(self.shared)
        self.opened_state.check(self, "mixed" if self.is_mixed else "train" if self.training else "eval")

    def run_own(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the code that the extractor was made with, not that of its variants."""
        self._check_opened()
        return type(self).forward(self, *args, **kwargs)

    @property
    def variants(self) -> tuple[FeatureExtractor, ...]:
        """The extractor, and those that ``on_guard="retrace"`` made besides for inputs that take other paths."""
        kept = () if self.retracing is None else self.retracing.kept
        return self, *(variant for variant in kept if variant is not None)

    def variant_for(self, *args: Any, **kwargs: Any) -> FeatureExtractor:
        """Run once, and return the variant that took the input."""
        if self.retracing is None:
            return self
        buffers = copy_values(self.buffers())
        self(*args, **kwargs)
        restore_values(buffers)
        return self.retracing.kept[0] or self

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_written_out(self, name)
        super().__setattr__(name, value)

    @property
    def emission(self) -> Emission:
        """What is emitted for the current mode."""
        form = self.forms.mixed if self.is_mixed else self.forms.train if self.training else self.forms.eval
        if isinstance(form, FxfeatError):
            raise form
        assert form is not None
        return form

    @property
    def code(self) -> str:
        """The source of ``forward`` in the current mode."""
        return self.emission.source.text

    @property
    def graph(self) -> fx.Graph:
        """The ``torch.fx`` graph of the current mode."""
        graph = self.emission.graph
        return graph if graph is not None else _trace_again(self)

    @property
    def guards(self) -> tuple[Check, ...]:
        """The decisions that are checked at run time."""
        return self.emission.guards

    @property
    def freedoms(self) -> tuple[DimStatus, ...]:
        """Which sizes of the inputs may differ from the example's, as found by recording at others."""
        return self.emission.freedoms

    @property
    def tapped(self) -> tuple[TappedModule, ...]:
        """The modules that run whole as their code cannot be written out, and why; values are copied out of them."""
        return list_tapped(*(emission.source for emission in self.forms.emissions))

    def find_tapped(self, key: str) -> tuple[nn.Module, TappedCall]:
        """Return the module of a call that runs whole in the current mode, and what is copied out of it."""
        call = next(call for call in self.emission.tapped if call.key == key)
        return self.originals.modules[call.path], call

    @property
    def rows(self) -> tuple[Row, ...]:
        """What is returned: key, name, shape and dtype at the example's size."""
        return self.emission.rows

    def by_key(self, values: Any) -> dict[str, Any]:
        """Map each key to its value in what a call returned, in whatever form that is."""
        return values if self.return_type == "dict" else dict(zip((row.key for row in self.rows), values, strict=True))

    def single(self, key: str) -> nn.Module:
        """Make a module that runs this one, and returns the value under one key.

        Example:
            >>> import fxfeat, torch
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
            >>> hidden = fxfeat.create_feature_extractor(model, ["1"]).single("1")
            >>> torch.nn.Sequential(hidden, torch.nn.Linear(3, 5))(torch.zeros(2, 4)).shape
            torch.Size([2, 5])

        Args:
            key: one of the extractor's keys. It goes on to compute them all.

        Raises:
            RequestError: for any other key.

        Source: what ``nn.Sequential`` and tools for exported models expect of a module.
        """
        return build_single(self, key)

    def save_code(self, path: str | Path, *, modules: Modules = "torch", example_inputs: Any = None) -> None:
        """Write a file of plain PyTorch that computes the same, and needs neither fxfeat nor the model's package.

        Example:
            >>> import fxfeat, tempfile, torch
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
            >>> extractor = fxfeat.create_feature_extractor(model, ["1"])
            >>> path = f"{tempfile.mkdtemp()}/hidden.py"
            >>> extractor.save_code(path)
            >>> print("".join(open(path).readlines()[-10:]), end="")
            class SequentialFeatures(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.add_module('0', nn.Linear(4, 3))
                    self.add_module('1', nn.ReLU())
            <BLANKLINE>
                def forward(self, input):
                    input = getattr(self, '0')(input)
                    _1 = getattr(self, '1')(input)
                    return {'1': _1}

        The class to use is the last one in the file. It takes no arguments; ``load_state_dict`` gives it the weights,
        under the names that they have here.

        Args:
            path: where to write the file.
            modules: ``"torch"`` writes everything out down to torch's own modules. ``"given"`` takes the parts from
                the model as they are: the class is made with the model as its argument.
            example_inputs: what the code is recorded with; that which the extractor was made with, if not given.

        Raises:
            TraceError: naming what cannot be written.

        Source: the code an expert hands over where a package cannot be installed.
        """
        _deploy().save_code(self, path, modules, example_inputs)

    def optimize(
        self,
        example_inputs: Any = None,
        *,
        dtype: torch.dtype | None = None,
        memory_format: Literal["auto", "channels_last", "contiguous"] = "auto",
        fold: bool = True,
        compile: bool | str = False,
    ) -> tuple[FeatureExtractor, Any]:
        """Make another extractor that is faster in inference; this one stays as it is.

        Batch norms are folded into the convolutions and linear layers in front of them, where nothing else reads the
        value in between; identities and dropouts are dropped; weights come channels last where a trial of the example
        is faster so. Code that turns out slower is undone.

        Example:
            >>> import fxfeat, torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout()).eval()
            >>> extractor = fxfeat.create_feature_extractor(model, {"3": "map"})
            >>> faster, report = extractor.optimize(torch.rand(1, 3, 32, 32), memory_format="contiguous")
            >>> [step.what for step in report.steps]
            ['1 norms folded into the layers in front of them', '1 identities and dropouts dropped']

        Args:
            example_inputs: what it will be run with, by size: times are taken on it. What the extractor was made with,
                if not given.
            dtype: convert to this dtype; inputs have to come in it.
            memory_format: ``auto`` tries channels last, and keeps it if it saves 3%.
            fold: whether to fold norms.
            compile: run it through ``torch.compile``, in this mode if it is a text.

        Returns:
            The extractor, for eval mode alone, and a report of the steps, the times and the largest differences.

        Raises:
            TraceError: where the extractor cannot be written out in full.

        Source: ``torch.fx.experimental.optimization`` and timm's ``--fuse`` fold norms, of models that trace.
        """
        mode = ("default" if compile is True else compile) or None
        faster, report = _deploy().optimize(self, example_inputs, dtype, memory_format, fold, mode)
        return faster, report

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any) -> None:
        """Take the whole model's checkpoint as well: what was left out is not looked at."""
        errors = others[-1]
        errors += explain_loading(self, state_dict, prefix, local_metadata)
        for name in self.left_out.difference(list_keys(self)):
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint of the extractor, or of the whole model."""
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            wrapper = _wrapper_of(state_dict, self.left_out.union(list_keys(self)))
            if not wrapper:
                raise
            raise RuntimeError(
                f"{error}\n\tThe names in this checkpoint start with {wrapper!r}, as those of a wrapped model do. Take "
                "that off with torch.nn.modules.utils.consume_prefix_in_state_dict_if_present"
                f"(state_dict, {wrapper!r})."
            ) from None

    def extra_repr(self) -> str:
        """Say what is returned, checked and kept."""
        return describe(self)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Set the mode of every module, as the model's own ``train`` does."""
        return self._set_modes("train()" if mode else "train(False)")

    def eval(self) -> FeatureExtractor:
        """Set the mode of every module, as the model's own ``eval`` does."""
        return self._set_modes("eval()")

    def _set_modes(self, setting: Setting) -> FeatureExtractor:
        self.is_mixed = False
        training = setting == "train()"
        super().train(training)
        for module in self.originals.modules.values():
            module.train(training)
        self.own_modes.follow(list_parts(self, self.originals.modules), self, setting)
        self.opened_state.note_modes()
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> FeatureExtractor:
        refuse_own_conversions(self, self.converts, fn)
        return super()._apply(fn, recurse)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key not in _OF_THE_ORIGINAL}
        return _restore, (_without_graphs(self.forms),), state


def _deploy() -> Any:
    """Load what an extractor is made ready for use by, which records it once more and so comes later."""
    return importlib.import_module("fxfeat.deploy")


_OF_THE_ORIGINAL = ("forms", "retracing", "forward", "shared", "example")
"""What a copy does not take over as it is: it follows nothing of the original's model."""


def _retracing_forward(extractor: FeatureExtractor) -> Callable[..., Any]:
    reference = weakref.ref(extractor)

    def forward(*args: Any, **kwargs: Any) -> Any:
        mine = reference()
        assert mine is not None and mine.retracing is not None
        return mine.retracing.call(mine, args, kwargs)

    forward.__signature__ = inspect.signature(extractor.forward)  # type: ignore[attr-defined]
    return forward


RESERVED = frozenset(dir(FeatureExtractor)) | {
    "forms",
    "is_mixed",
    "parameters_before",
    "original",
    "tracer_kwargs",
    "originals",
    "opened_state",
    "shared",
    "left_out",
    "return_type",
    "own_modes",
    "converts",
    "_changes_loaded",
}
"""Attributes that an extractor has of its own, whatever children the model has."""


def build_extractor(
    forms: ModeVariants,
    model: nn.Module,
    tracer_kwargs: dict[str, Any] | None = None,
    return_type: ReturnType = "dict",
    retracing: Retracing | None = None,
) -> FeatureExtractor:
    """Make the module: a class of its own, so that ``forward`` has the signature of the original.

    Raises:
        RequestError: for a form of return that is not known.
    """
    if return_type not in get_args(ReturnType):
        raise RequestError(f"return_type is {return_type!r}; it must be 'dict', 'tuple' or 'list'.")
    if return_type != "dict":
        forms = forms.map(lambda emission: _return_as(emission, return_type))
    cls = _class_of(forms)
    extractor: FeatureExtractor = cls(forms, model, tracer_kwargs, return_type, retracing)
    return extractor


def _return_as(form: Emission, kind: ReturnType) -> Emission:
    graph = None if form.graph is None else _copy_graph(form.graph)  # both modes may have one
    if graph is not None:
        output = next(node for node in graph.nodes if node.op == "output")
        values = tuple(output.args[0].values())
        output.args = (values if kind == "tuple" else list(values),)
    return replace(form, source=write_as(form.source, kind), graph=graph)


def _copy_graph(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    return copy


def build_single(extractor: FeatureExtractor, key: str) -> nn.Module:
    """Make a module that runs an extractor and returns the value under one key."""
    keys = [[row.key for row in emission.rows] for emission in extractor.forms.emissions]
    places = {listed.index(key) if key in listed else None for listed in keys}
    if None in places or (len(places) > 1 and extractor.return_type != "dict"):
        shown = ", ".join(repr(one) for one in dict.fromkeys(itertools.chain(*keys)))
        raise RequestError(f"{key!r} is not a key of this extractor in each mode, at one place. Its keys are {shown}.")
    head, namespace = head_of(extractor.forms)
    me, call = call_of(head)
    step = key if extractor.return_type == "dict" else next(iter(places))
    forward = compile_source(Source(f"{head}\n    return {me}.extractor({call})[{step!r}]\n", namespace))
    single: nn.Module = type("SingleFeature", (_SingleFeature,), {"forward": forward, "__module__": __name__})(
        extractor, key
    )
    return single


class _SingleFeature(nn.Module):
    """Runs an extractor, and returns one of its values."""

    def __init__(self, extractor: FeatureExtractor, key: str) -> None:
        super().__init__()
        self.extractor, self.key = extractor, key
        self.training = extractor.training

    def __reduce__(self) -> tuple[Any, ...]:
        return build_single, (self.extractor, self.key), self.__dict__


def list_keys(module: nn.Module) -> list[str]:
    """List the keys of a module's ``state_dict``, without calling what it does besides.

    >>> list_keys(nn.BatchNorm1d(2, affine=False))
    ['running_mean', 'running_var', 'num_batches_tracked']
    """
    return [
        f"{path}.{name}" if path else name
        for path, part in module.named_modules(remove_duplicate=False)
        for name in _own_keys(part)
    ]


def _own_keys(module: nn.Module) -> list[str]:
    names = [name for name, value in (*module._parameters.items(), *module._buffers.items()) if value is not None]
    extra = ["_extra_state"] if type(module).get_extra_state is not nn.Module.get_extra_state else []
    return [name for name in names if name not in module._non_persistent_buffers_set] + extra


_WRAPPERS = ("module.", "_orig_mod.")


def _wrapper_of(state_dict: Any, names: frozenset[str]) -> str:
    """Return what all names of a checkpoint start with, where that is the part of a wrapper."""
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) and name.removeprefix(wrapper) in names for name in state_dict):
            return wrapper
    return ""


def _class_of(forms: ModeVariants) -> type[FeatureExtractor]:
    methods: dict[str, Callable[..., Any]] = {}
    sources: dict[str, str] = {}
    for name, form, _ in _named_emissions(forms):
        methods[name] = compile_source(form.source)
        sources[name] = form.source.text
    if set(methods) == {"train", "eval"} and len(set(sources.values())) == 1:
        body = {"forward": methods["train"]}
    else:
        body = {f"_forward_{name}": method for name, method in methods.items()}
        body["forward"] = compile_source(_dispatch(forms))
    return type("FeatureExtractor", (FeatureExtractor,), {**body, "__module__": __name__})


def _dispatch(forms: ModeVariants) -> Source:
    """Write the ``forward`` that picks the mode's own."""
    head, namespace = head_of(forms)
    me, call = call_of(head)
    lines = [head]
    if forms.mixed is not None:
        lines += [f"    if {me}.is_mixed:", f"        return {me}._forward_mixed({call})"]
    for test, name, form in ((f"{me}.training", "train", forms.train), (f"not {me}.training", "eval", forms.eval)):
        run = f"return {me}._forward_{name}({call})" if isinstance(form, Emission) else f"raise {me}.forms.{name}"
        lines += [f"    if {test}:", f"        {run}"]
    return Source("\n".join(lines) + "\n", namespace)


def head_of(forms: ModeVariants) -> tuple[str, dict[str, Any]]:
    """Return the first lines of ``forward``, with the imports above, and what their global names stand for."""
    recorded = next(form for form in (forms.mixed, forms.train, forms.eval) if isinstance(form, Emission))
    above, define, below = recorded.source.text.partition("def ")
    return above + define + below.splitlines()[0], recorded.source.namespace


def call_of(head: str) -> tuple[str, str]:
    """Return the name of the receiver, and the arguments that pass everything else on."""
    import ast

    arguments = ast.parse(head + " pass").body[-1].args  # type: ignore[attr-defined]
    receiver, *positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    parts = [*positional, *([f"*{arguments.vararg.arg}"] if arguments.vararg else [])]
    parts += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    return receiver, ", ".join([*parts, *([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])])


def compile_source(source: Source) -> Callable[..., Any]:
    """Compile emitted source so that tracebacks and debuggers can show it."""
    filename = f"{EXTRACTOR}{next(_serial)}>"
    linecache.cache[filename] = (len(source.text), None, source.text.splitlines(keepends=True), filename)
    # With a name, as a file has, for where the extractor is itself part of a model that is recorded.
    namespace = {"__name__": "extractor", **source.namespace}
    exec(compile(source.text, filename, "exec"), namespace)
    method: Callable[..., Any] = namespace["forward"]
    return method


def _named_emissions(forms: ModeVariants) -> Iterator[tuple[str, Emission, Setting | None]]:
    """Yield the forms that there are, each with its name and what sets the mode."""
    settings: tuple[tuple[str, Any, Setting | None], ...] = (
        *(("train", forms.train, "train()"), ("eval", forms.eval, "eval()")),
        ("mixed", forms.mixed, None),
    )
    return ((name, form, setting) for name, form, setting in settings if isinstance(form, Emission))


def _without_graphs(forms: ModeVariants) -> ModeVariants:
    return forms.map(lambda emission: replace(emission, graph=None))


def _restore(forms: ModeVariants) -> FeatureExtractor:
    cls = _class_of(forms)
    extractor = cls.__new__(cls)
    nn.Module.__init__(extractor)
    object.__setattr__(extractor, "forms", forms)
    return extractor


def _trace_again(extractor: FeatureExtractor) -> fx.Graph:
    """Get the graph of an unpickled extractor back from its source, which has no control flow."""
    replacing = [each.function for each in extractor.emission.replacements if isinstance(each.function, FunctionType)]
    tracer = fx.Tracer(autowrap_functions=(check, leaves_fast_path, run_tapped, replace_part, *replacing))
    tracer.is_leaf_module = lambda m, module_qualified_name: True  # type: ignore[method-assign]
    return tracer.trace(extractor)
