"""Record again for inputs that take another path, and keep the code of both."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import nn

from fxfeat.codegen.containers import Opened
from fxfeat.errors import GuardError, NodeNotFoundError, RequestError
from fxfeat.ir.example import Example
from fxfeat.ir.tree import tensors
from fxfeat.isolation.preserved import copy_values, restore_values
from fxfeat.isolation.random_state import read_random, restore_random

MOST = 8
"""How many variants are kept, the first one included."""

OnGuard = Literal["raise", "retrace"]


def check_on_guard(on_guard: Any) -> OnGuard:
    """Return what is to be done with an input that takes another path.

    Raises:
        RequestError: where it is neither.
    """
    if on_guard not in get_args(OnGuard):
        raise RequestError(f"on_guard is {on_guard!r}; it must be one of {', '.join(map(repr, get_args(OnGuard)))}.")
    chosen: OnGuard = on_guard
    return chosen


class Retracing:
    """The variants of one extractor, those used last in front; None stands for the extractor's own code.

    Args:
        model: what to record again; it is not kept alive.
        make: makes an extractor of it by an example.
    """

    def __init__(self, model: nn.Module, make: Callable[[nn.Module, Example], Any]) -> None:
        self.kept: list[Any] = [None]
        self._model = weakref.ref(model)
        self._name = type(model).__name__
        self._make = make

    def call(self, extractor: Any, args: Any, kwargs: Any) -> Any:
        """Run the variant that takes an input, or record one that does.

        Raises:
            GuardError: where that cannot be.
            RequestError: while the extractor is compiled or exported.
        """
        if torch.compiler.is_compiling():
            raise RequestError(
                "An extractor with on_guard='retrace' records when it runs, which compiled and exported code cannot. "
                "Compile or export one that was made with on_guard='raise'."
            )
        random, buffers = read_random(), copy_values(extractor.buffers())
        versions, refused = _versions(args, kwargs), None
        for variant in list(self.kept):
            try:
                return self._run(extractor, variant, args, kwargs)
            except GuardError as error:
                refused = refused or error
            restore_random(random)
            restore_values(buffers)
            if _versions(args, kwargs) != versions:
                raise refused  # it was written to before the check
        assert refused is not None
        variant = self._record(args, kwargs, refused)
        del self.kept[_oldest(self.kept) :]
        return self._run(extractor, variant, args, kwargs)

    def _run(self, extractor: Any, variant: Any, args: Any, kwargs: Any) -> Any:
        if variant is not None:
            _share_state(extractor, variant)
        features = extractor.run_own(args, kwargs) if variant is None else variant(*args, **kwargs)
        self.kept = [variant, *(other for other in self.kept if other is not variant)]
        return features

    def _record(self, args: Any, kwargs: Any, refused: GuardError) -> Any:
        model = self._model()
        if model is None:
            raise GuardError(
                f"{refused} on_guard='retrace' cannot do that any more, for the {self._name} that the extractor was "
                "made from is gone. Keep it."
            ) from refused
        try:
            return self._make(model, Example(tuple(args), dict(kwargs)))
        except NodeNotFoundError as error:
            raise GuardError(
                f"This input takes a path on which the {self._name} does not compute all that was asked for: {error}"
            ) from error


def _oldest(kept: list[Any]) -> int:
    """Make room for one more, and keep the extractor's own code, whenever it was used."""
    if len(kept) >= MOST and kept[-1] is None:
        kept.insert(0, kept.pop())
    return MOST - 1


def _versions(args: Any, kwargs: Any) -> list[int]:
    given = (tensor for _, tensor in tensors((args, kwargs)))
    return [tensor._version for tensor in given if not tensor.is_inference()]


def _share_state(extractor: nn.Module, variant: nn.Module) -> None:
    """Let a variant run in the extractor's mode, and on the tensors that the extractor has by now."""
    theirs = dict(extractor.named_modules(remove_duplicate=False))
    for path, module in variant.named_modules(remove_duplicate=False):
        source = theirs.get(path)
        if source is None or source is module:
            continue
        module.training = source.training if source is not extractor else extractor.training
        for table in ("_parameters", "_buffers"):
            mine, other = module.__dict__[table], source.__dict__[table]
            for name in [name for name in mine if name in other]:
                if mine[name] is not other[name] and not (module is variant or isinstance(module, Opened)):
                    raise GuardError(
                        f"{f'{path}.{name}'!r} of the extractor is not the model's own any more: one of the two was "
                        "exchanged or put elsewhere since. Create the extractor again from a model that is where it is "
                        "to run."
                    )
                mine[name] = other[name]
