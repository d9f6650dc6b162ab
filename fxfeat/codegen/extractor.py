"""The emitted module: a forward of its own, the original's submodules, a dict of features."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from fxfeat.codegen.containers import plant, refuse_written_out
from fxfeat.codegen.opened_state import OpenedState, close_opened, take_form
from fxfeat.codegen.own_conversions import find_own_conversions, refuse_own_conversions
from fxfeat.codegen.own_loading import explain_loading, note_loading
from fxfeat.codegen.own_modes_followed import OwnModes, list_parts, read_own_modes
from fxfeat.codegen.tapped_modules import Originals, plant_tapped
from fxfeat.errors import TraceError
from fxfeat.ir.emission import Check, DimStatus, Emission, ModeVariants, Row, Source, UsedState, list_tapped
from fxfeat.ir.shown import Shown, describe
from fxfeat.ir.tap import TappedCall, TappedModule
from fxfeat.isolation.own_modes import Setting
from fxfeat.runtime.check import check, leaves_fast_path
from fxfeat.runtime.global_hooks import list_global_hooks
from fxfeat.runtime.run_tapped import run_tapped
from fxfeat.runtime.snapshot import take

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
    own_modes: OwnModes
    converts: str

    def __init__(self, forms: ModeVariants, model: nn.Module, tracer_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.tracer_kwargs = dict(tracer_kwargs or {})
        self.forms = forms
        self.is_mixed = forms.mixed is not None
        self.parameters_before = sum(parameter.numel() for parameter in model.parameters())
        self.original = type(model).__name__
        emissions = [form for form in (forms.train, forms.eval, forms.mixed) if isinstance(form, Emission)]
        used_state, constants = UsedState(frozenset(), frozenset()), {}
        for emission in emissions:
            used_state = used_state | emission.used_state
            constants.update(emission.constants)
        note_loading(model, self)
        plant(self, model, used_state, constants)
        calls = [call for emission in emissions for call in emission.tapped]
        self.originals = Originals({call.path: model.get_submodule(call.path) for call in calls})
        plant_tapped(self, model, used_state, calls)
        self.training = model.training
        self.own_modes = read_own_modes(model, self)
        self.converts = find_own_conversions(model, self)
        self.opened_state = OpenedState(
            {
                name: take_form(model, form, self.own_modes, setting)
                for name, form, setting in _named_forms(forms)
                if isinstance(form, Emission)
            },
            take(list_global_hooks()),
        )
        for name in self.opened_state.forms:
            self.opened_state.watch(self, model, name)
        close_opened(self, self.opened_state, RESERVED)

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            self.opened_state.check(self, "mixed" if self.is_mixed else "train" if self.training else "eval")
        return super()._call_impl(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_written_out(self, name)
        super().__setattr__(name, value)

    @property
    def emission(self) -> Emission:
        """What is emitted for the current mode."""
        form = self.forms.mixed if self.is_mixed else self.forms.train if self.training else self.forms.eval
        if isinstance(form, TraceError):
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
        forms = (self.forms.train, self.forms.eval, self.forms.mixed)
        return list_tapped(*(form.source for form in forms if isinstance(form, Emission)))

    def find_tapped(self, key: str) -> tuple[nn.Module, TappedCall]:
        """Return the module of a call that runs whole in the current mode, and what is copied out of it."""
        call = next(call for call in self.emission.tapped if call.key == key)
        return self.originals.modules[call.path], call

    @property
    def rows(self) -> tuple[Row, ...]:
        """What is returned: key, name, shape and dtype at the example's size."""
        return self.emission.rows

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

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any) -> None:
        errors = others[-1]
        errors += explain_loading(self, state_dict, prefix, local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key != "forms"}
        return _restore, (_without_graphs(self.forms),), state


RESERVED = frozenset(dir(FeatureExtractor)) | {
    "forms",
    "is_mixed",
    "parameters_before",
    "original",
    "tracer_kwargs",
    "originals",
    "opened_state",
    "own_modes",
    "converts",
    "_changes_loaded",
}
"""Attributes that an extractor has of its own, whatever children the model has."""


def build_extractor(
    forms: ModeVariants, model: nn.Module, tracer_kwargs: dict[str, Any] | None = None
) -> FeatureExtractor:
    """Make the module: a class of its own, so that ``forward`` has the signature of the original."""
    cls = _class_of(forms)
    extractor: FeatureExtractor = cls(forms, model, tracer_kwargs)
    return extractor


def _class_of(forms: ModeVariants) -> type[FeatureExtractor]:
    methods: dict[str, Callable[..., Any]] = {}
    sources: dict[str, str] = {}
    for name, form in (("train", forms.train), ("eval", forms.eval), ("mixed", forms.mixed)):
        if isinstance(form, Emission):
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
    recorded = next(form for form in (forms.mixed, forms.train, forms.eval) if isinstance(form, Emission))
    above, define, below = recorded.source.text.partition("def ")
    head = define + below.splitlines()[0]
    me, call = _call_of(head)
    lines = [above + head]
    if forms.mixed is not None:
        lines += [f"    if {me}.is_mixed:", f"        return {me}._forward_mixed({call})"]
    for test, name, form in ((f"{me}.training", "train", forms.train), (f"not {me}.training", "eval", forms.eval)):
        run = f"return {me}._forward_{name}({call})" if isinstance(form, Emission) else f"raise {me}.forms.{name}"
        lines += [f"    if {test}:", f"        {run}"]
    return Source("\n".join(lines) + "\n", recorded.source.namespace)


def _call_of(head: str) -> tuple[str, str]:
    """Return the name of the receiver, and the arguments that pass everything else on."""
    import ast

    arguments = ast.parse(head + " pass").body[0].args  # type: ignore[attr-defined]
    receiver, *positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    parts = [*positional, *([f"*{arguments.vararg.arg}"] if arguments.vararg else [])]
    parts += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    return receiver, ", ".join([*parts, *([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])])


def compile_source(source: Source) -> Callable[..., Any]:
    """Compile emitted source so that tracebacks and debuggers can show it."""
    filename = f"<fxfeat extractor {next(_serial)}>"
    linecache.cache[filename] = (len(source.text), None, source.text.splitlines(keepends=True), filename)
    namespace = dict(source.namespace)
    exec(compile(source.text, filename, "exec"), namespace)
    method: Callable[..., Any] = namespace["forward"]
    return method


def _named_forms(forms: ModeVariants) -> tuple[tuple[str, Any, Setting | None], ...]:
    return ("train", forms.train, "train()"), ("eval", forms.eval, "eval()"), ("mixed", forms.mixed, None)


def _without_graphs(forms: ModeVariants) -> ModeVariants:
    def bare(form: Any) -> Any:
        return replace(form, graph=None) if isinstance(form, Emission) else form

    return ModeVariants(bare(forms.train), bare(forms.eval), bare(forms.mixed))


def _restore(forms: ModeVariants) -> FeatureExtractor:
    cls = _class_of(forms)
    extractor = cls.__new__(cls)
    nn.Module.__init__(extractor)
    object.__setattr__(extractor, "forms", forms)
    return extractor


def _trace_again(extractor: FeatureExtractor) -> fx.Graph:
    """Get the graph of an unpickled extractor back from its source, which has no control flow."""
    tracer = fx.Tracer(autowrap_functions=(check, leaves_fast_path, run_tapped))
    tracer.is_leaf_module = lambda m, module_qualified_name: True  # type: ignore[method-assign]
    return tracer.trace(extractor)
