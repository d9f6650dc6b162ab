"""The property: what an extractor returns is what cloning hooks see, bit for bit, or it is an ``FxfeatError``."""

from __future__ import annotations

import contextlib
import copy
import itertools
import linecache
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import fxfeat
from tests.oracle import Seen, eager, frozen, is_leaf, pick, run, same_value, seed
from tests.random_modules.strategy import Case, Sizes

_MANY = 4
_serial = itertools.count()


class Mismatch(AssertionError):
    """A wrong value, or an exception that is no ``FxfeatError``, where eager PyTorch runs."""


@dataclass
class Outcome:
    """What became of one case."""

    compared: int = 0
    refused: bool = False
    error: str = ""
    guarded: list[str] = field(default_factory=list)
    resized: int = 0


def check(case: Case) -> Outcome:
    """Compare a case with eager PyTorch.

    Raises:
        Mismatch: where they differ.
    """
    with torch.set_grad_enabled(case.grad), warnings.catch_warnings(), _written_down(case.source) as file:
        warnings.simplefilter("ignore")
        return _check(case, build(case, file))


class _written_down:
    """Let Python and fxfeat find the lines of the source."""

    def __init__(self, source: str) -> None:
        self.source, self.file = source, f"<random module {next(_serial)}>"

    def __enter__(self) -> str:
        linecache.cache[self.file] = (len(self.source), None, self.source.splitlines(True), self.file)
        return self.file

    def __exit__(self, *error: Any) -> None:
        del linecache.cache[self.file]


def build(case: Case, file: str) -> nn.Module:
    """Make the model that a case describes, in the mode that it asks for."""
    namespace: dict[str, Any] = {"__name__": "random_module"}
    exec(compile(case.source, file, "exec"), namespace)
    seed(case.picks[0])
    model: nn.Module = namespace["Model"]().train(case.mode == "train")
    if case.mode == "mixed":
        flags = random.Random(case.picks[0])
        for module in model.modules():
            module.training = flags.random() < 0.5
    return model


def inputs_of(case: Case, sizes: Sizes) -> tuple[torch.Tensor, ...]:
    """Make inputs of some sizes."""
    seed(sizes.batch)
    shape = (sizes.batch, case.channels, sizes.height, sizes.width)
    return tuple(torch.randn(shape) for _ in range(case.inputs))


def _check(case: Case, model: nn.Module) -> Outcome:
    example, outcome = inputs_of(case, case.example), Outcome()
    if case.used:
        _use(model, example)
    mode = "mixed" if case.mode == "mixed" else model.training
    seen = try_eager(model, mode, example)
    if seen is None:
        return Outcome(refused=True)
    if case.operations:
        return _check_operations(case, model, example, outcome)
    names = choose(case, names_in(model, seen))
    other = None if mode == "mixed" else try_eager(model, not mode, example)
    both = other is not None and set(names) <= set(names_in(model, other))
    request = _request(names, model.training, alone=not both and mode != "mixed")
    extractor = _create(case, model, request, example, outcome)
    if extractor is None:
        return outcome
    for tried in (mode, not mode) if both else (mode,):
        _check_mode(case, copy.deepcopy(model), copy.deepcopy(extractor), names, tried, outcome)
    return outcome


def _use(model: nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    """Run a model before it is wrapped, as a model that was trained has been."""
    with torch.no_grad(), contextlib.suppress(Exception):
        eager(model, example)


def _request(names: list[str], training: bool, alone: bool) -> dict[str, Any]:
    if not alone:
        return {"return_nodes": names}
    if training:
        return {"train_return_nodes": names, "eval_return_nodes": ["output"]}
    return {"train_return_nodes": ["output"], "eval_return_nodes": names}


def _create(
    case: Case, model: nn.Module, request: dict[str, Any], example: Any, outcome: Outcome
) -> fxfeat.FeatureExtractor | None:
    try:
        with frozen(model):
            return fxfeat.create_feature_extractor(model, **request, example_inputs=example, flatten=case.flatten)
    except fxfeat.FxfeatError as error:
        outcome.error = f"{type(error).__name__}: {error}"
    except Exception as error:
        raise Mismatch(f"creating {request}: {type(error).__name__}: {error}") from error
    return None


# -- eager -------------------------------------------------------------------------------------------------------------


def try_eager(model: nn.Module, mode: Any, inputs: Any) -> Seen | None:
    """Run a copy of a model in a mode, or as its flags are."""
    try:
        return eager(_in_mode(copy.deepcopy(model), mode), inputs)
    except Exception:
        return None


def _in_mode(model: nn.Module, mode: Any) -> nn.Module:
    return model if mode == "mixed" else model.train(mode)


def names_in(model: nn.Module, seen: Seen) -> list[str]:
    """List what can be asked for: modules, their calls, and elements of what they returned."""
    names: list[str] = []
    for path, calls in seen.items():
        if path.endswith(":in"):
            continue  # what a module was called with
        names.append(path)
        names += [f"{path}@{index}" for index in range(len(calls)) if path != "output"]
        names += [f"{path}{steps}" for steps in _steps(pick(model, seen, path)) if steps]
    return [name for name in names if list(_steps(pick(model, seen, name)))]


def _steps(value: Any) -> Iterator[str]:
    if isinstance(value, torch.Tensor):
        yield ""
    parts = enumerate(value) if isinstance(value, (tuple, list)) else value.items() if isinstance(value, dict) else ()
    for key, held in parts:
        yield from (f"[{key!r}]{rest}" for rest in _steps(held))


def choose(case: Case, names: list[str]) -> list[str]:
    """Choose one name, a few or all."""
    if case.amount == "all":
        return names
    picks = case.picks[: 1 if case.amount == "one" else _MANY]
    return list(dict.fromkeys(names[index % len(names)] for index in picks))


# -- values ------------------------------------------------------------------------------------------------------------


def _check_mode(
    case: Case, reference: nn.Module, extractor: nn.Module, names: list[str], mode: Any, outcome: Outcome
) -> None:
    """Run both on the example twice and on other sizes, state and all."""
    _in_mode(reference, mode), _in_mode(extractor, mode)
    meant: dict[str, str] = {}
    for index, sizes in enumerate((case.example, case.example, *case.others)):
        inputs = inputs_of(case, sizes)
        tried = try_eager(reference, "mixed", inputs)
        meant = meant or {name: _numbered(reference, tried or {}, name) for name in names}
        if tried is None or not all(_has_meaning(reference, tried, name) for name in meant.values()):
            continue
        outcome.resized += index > 1
        seen = eager(reference, inputs)
        try:
            found = run(extractor, inputs)
        except fxfeat.GuardError as error:
            _note_guard(str(error), index, outcome)
            return
        except fxfeat.TraceError as error:
            outcome.error = f"TraceError: {error}"  # the other mode could be recorded, this one could not
            return
        except Exception as error:
            raise Mismatch(_told(f"{type(error).__name__}: {error}", extractor, mode, index, sizes)) from error
        wrong = [name for name in names if not _is_right(reference, seen, meant[name], found[name])]
        outcome.compared += len(names)
        if wrong:
            raise Mismatch(_told(f"{wrong} of {names} differ", extractor, mode, index, sizes))


def _numbered(model: nn.Module, seen: Seen, name: str) -> str:
    """Number the call that a bare name means: the example's last.

    At another size, a branch behind it may call the module once more, and the extractor does not run what is behind.
    """
    head, bracket, steps = name.partition("[")
    if head == "output" or "@" in head or head not in seen or is_leaf(model, head):
        return name
    return f"{head}@{len(seen[head]) - 1}{bracket}{steps}"


def _has_meaning(model: nn.Module, seen: Seen, name: str) -> bool:
    """Say whether eager PyTorch has a value for a name, or no call of the module at all.

    A model may return a tensor at one size and a tuple at another: nobody can say what its element is then. A module
    that is not called has no value either, but that a branch was not taken is what an extractor has to notice.
    """
    try:
        pick(model, seen, name)
    except (KeyError, IndexError):
        return name.partition("[")[0] == name or _path(name) not in seen
    except TypeError:
        return False
    return True


def _is_right(model: nn.Module, seen: Seen, name: str, value: Any) -> bool:
    try:
        return any(same_value(value, held) for held in _legal(model, seen, name))
    except (KeyError, IndexError):
        return False  # the module was not called


def _path(name: str) -> str:
    return name.partition("[")[0].partition("@")[0]


def _note_guard(error: str, index: int, outcome: Outcome) -> None:
    if index == 0:
        outcome.error = f"GuardError: {error}"
    else:
        outcome.guarded.append(error)


def _legal(model: nn.Module, seen: Seen, name: str) -> list[Any]:
    """List the values that a name may mean: one, unless several paths lead to the module.

    Hooks do not tell by which of its paths a module was called, so any of its calls is right there.
    """
    path = _path(name)
    counts = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    if path == "output" or counts[id(model.get_submodule(path))] == 1:
        return [pick(model, seen, name)]
    steps = name[len(name.partition("[")[0]) :]
    return [eval(f"value{steps}", {"value": value}) for value in seen[path]]


def _told(what: str, extractor: Any, mode: Any, index: int, sizes: Sizes) -> str:
    return f"{what}; training={mode}, run {index}, {sizes}\n{extractor.code}"


# -- operations --------------------------------------------------------------------------------------------------------


def _check_operations(case: Case, model: nn.Module, example: Any, outcome: Outcome) -> Outcome:
    """Compare listed names, operations among them, by ``fxfeat.verify``."""
    if any(try_eager(model, mode, example) is None for mode in (True, False)):
        return Outcome(refused=True)
    try:
        listed = fxfeat.get_graph_node_names(model, example_inputs=example, suppress_diff_warning=True)
    except fxfeat.FxfeatError as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
    except Exception as error:
        raise Mismatch(f"listing names: {type(error).__name__}: {error}") from error
    names = choose(case, listed[not model.training])
    request = _request(names, model.training, alone=not set(names) <= {*listed[0]} & {*listed[1]})
    extractor = _create(case, model, request, example, outcome)
    if extractor is not None:
        _verify(case, model, extractor, names, outcome)
    return outcome


def _verify(
    case: Case, model: nn.Module, extractor: fxfeat.FeatureExtractor, names: list[str], outcome: Outcome
) -> None:
    for index, sizes in enumerate((case.example, *case.others)):
        inputs = inputs_of(case, sizes)
        if try_eager(model, "mixed", inputs) is None:
            continue
        outcome.resized += index > 0
        try:
            verified = fxfeat.verify(model, extractor, *inputs)
        except fxfeat.GuardError as error:
            _note_guard(str(error), index, outcome)
            continue
        except Exception as error:
            raise Mismatch(
                _told(f"{type(error).__name__}: {error}", extractor, model.training, index, sizes)
            ) from error
        outcome.compared += len(names)
        if not verified.ok:
            raise Mismatch(_told(f"{names}\n{verified}\n", extractor, model.training, index, sizes))
