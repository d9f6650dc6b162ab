"""The oracle: eager PyTorch with forward hooks that clone.

A copy of the model runs eagerly, and every value is cloned the moment it is produced: what a module returned by a
forward hook, what an operation in between gave by ``tap``, which tiny models call in their ``forward`` and which does
nothing at any other time. The extractor has to give the same, bit for bit, whether a name is asked for alone or
together with others, call after call.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import fxfeat
from fxfeat.isolation.preserved import preserved

Seen = dict[str, list[Any]]

_taps: Seen | None = None
_keep_graph = False


# -- copies of values --------------------------------------------------------------------------------------------------


def clone(value: Any, grad: bool = False) -> Any:
    """Copy every tensor in a value."""
    if isinstance(value, torch.Tensor):
        return value.clone() if grad else value.detach().clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(clone(part, grad) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(clone(part, grad) for part in value)
    if isinstance(value, dict):
        return {key: clone(part, grad) for key, part in value.items()}
    copied = copy.copy(value)
    if hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
        for name, part in vars(value).items():
            object.__setattr__(copied, name, clone(part, grad))
    return copied


def same(left: Any, right: Any) -> bool:
    """Compare two tensors bit for bit, NaN equal to NaN."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(left, right) or torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)


def same_value(left: Any, right: Any) -> bool:
    """Compare two values of any structure bit for bit."""
    if isinstance(right, torch.Tensor):
        return isinstance(left, torch.Tensor) and same(left, right)
    if type(left) is not type(right):
        return False
    if isinstance(right, (tuple, list)):
        return len(left) == len(right) and all(map(same_value, left, right))
    if isinstance(right, dict):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in right)
    if hasattr(right, "__dict__") and not isinstance(right, type):
        return same_value(dict(vars(left)), dict(vars(right)))
    return bool(left == right)


# -- eager runs --------------------------------------------------------------------------------------------------------


def tap(name: str, value: Any) -> None:
    """Keep a value of a running eager model under the name that its node has; do nothing at any other time."""
    if _taps is not None:
        _taps.setdefault(name, []).append(clone(value, _keep_graph))


def seed(number: int) -> None:
    """Seed what is in use; ``torch.manual_seed`` notes the whole stack for each kind of device that was never used."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with fresh copies of a tensor, a tuple or a dict of inputs."""
    inputs = copy.deepcopy(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def eager(model: nn.Module, inputs: Any, grad: bool = False) -> Seen:
    """Run a model and collect what each of its modules returned at each call, what was tapped, and ``output``."""
    global _taps, _keep_graph
    seen: Seen = {}
    modules = [(path, module) for path, module in model.named_modules() if path]
    # A scripted module takes no hooks; what it returns can be tapped.
    hookable = [(path, module) for path, module in modules if not isinstance(module, torch.jit.ScriptModule)]
    handles = [module.register_forward_hook(_keeper(seen, path, grad)) for path, module in hookable]
    handles += [
        module.register_forward_pre_hook(_keeper_of_inputs(seen, path, grad), with_kwargs=True)
        for path, module in hookable
    ]
    _taps, _keep_graph = {}, grad
    seed(0)
    try:
        seen["output"] = [call(model, inputs)]
        seen.update(_taps)
    finally:
        _taps, _keep_graph = None, False
        for handle in handles:
            handle.remove()
    return seen


def _keeper(seen: Seen, path: str, grad: bool) -> Any:
    def keep(module: nn.Module, args: Any, result: Any) -> None:
        seen.setdefault(path, []).append(clone(result, grad))

    return keep


def _keeper_of_inputs(seen: Seen, path: str, grad: bool) -> Any:
    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.setdefault(f"{path}:in", []).append(clone((args, kwargs), grad))

    return keep


def hooked(model: nn.Module, inputs: Any) -> dict[str, list[torch.Tensor]]:
    """Run a model, leave its buffers as they were, and collect the tensors that its modules returned."""
    with kept_buffers(model):
        seen = eager(model, inputs)
    del seen["output"]
    calls = {path: [part for part in values if isinstance(part, torch.Tensor)] for path, values in seen.items()}
    return {path: part for path, part in calls.items() if part}


class kept_buffers:
    """Put buffers back after a run in train mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.before = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]

    def __exit__(self, *error: Any) -> None:
        with torch.no_grad():
            for buffer, value in self.before:
                if buffer.shape == value.shape:
                    buffer.copy_(value)


# -- what a name means -------------------------------------------------------------------------------------------------


def pick(model: nn.Module, seen: Seen, query: str) -> Any:
    """Say which of the values seen a query means.

    A leaf's name is its first call, any other module's its last; ``name@k`` is call k, ``name@*`` all of them; brackets
    pick an element; ``name:in`` is the first positional tensor that the module was called with.
    """
    if query in seen and ":in" not in query:
        head, call, steps = query, "", ""
    else:
        head, bracket, tail = query.partition("[")
        steps = bracket + tail
        is_input = head.endswith(":in")
        head, _, call = head.removesuffix(":in").partition("@")
        if is_input:
            return _pick_input(model, seen, head, call, steps)
    calls = seen[head]
    if call == "*":
        return [eval(f"value{steps}", {"value": value}) for value in calls]
    index = int(call) if call else 0 if is_leaf(model, head) else -1
    return eval(f"value{steps}", {"value": calls[index]})


def _pick_input(model: nn.Module, seen: Seen, head: str, call: str, steps: str) -> Any:
    calls = [_argument(*given, steps) for given in seen[f"{head}:in"]]
    if call == "*":
        return calls
    return calls[int(call) if call else 0 if is_leaf(model, head) else -1]


def _argument(args: Any, kwargs: Any, steps: str) -> Any:
    if not steps:
        return next(value for value in args if isinstance(value, torch.Tensor))
    return eval(f"given{steps}", {"given": {**dict(enumerate(args)), **kwargs}})


def is_leaf(model: nn.Module, path: str) -> bool:
    module = dict(model.named_modules()).get(path)
    home = type(module).__module__
    return module is not None and home.startswith("torch.nn") and not isinstance(module, (nn.Sequential, nn.ModuleList))


# -- the comparison ----------------------------------------------------------------------------------------------------


def run(extractor: nn.Module, inputs: Any) -> dict[str, Any]:
    """Run an extractor under the same random state as ``eager``."""
    seed(0)
    return call(extractor, inputs)


def assert_equals_eager(
    model: nn.Module,
    names: Sequence[str],
    example: Any,
    *others: Any,
    modes: Sequence[bool] = (False, True),
    **options: Any,
) -> None:
    """Compare each name alone, and all of them, with eager PyTorch on the example and on other inputs.

    In the first of the modes they are asked for in the order given, in the others in the reverse order.
    """
    alone = [[name] for name in names] if len(names) > 1 else []
    for training, request in itertools.product(modes, [*alone, list(names)]):
        request = request if training == modes[0] else request[::-1]
        reference, mine = (copy.deepcopy(model).train(training) for _ in range(2))
        extractor = fxfeat.create_feature_extractor(mine, request, example_inputs=example, **options)
        for inputs in (example, *others):
            seen, found = eager(reference, inputs), run(extractor, inputs)
            assert list(found) == request
            for name in request:
                expected = pick(reference, seen, name)
                assert same_value(found[name], expected), f"{name} in {request}, training={training}:\n{extractor.code}"


def assert_taps_equal_eager(model: nn.Module, names: Sequence[str], example: Any, *others: Any) -> None:
    """Compare with eager PyTorch, call after call, what modules that run whole give where code cannot be written out.

    Names of operations are compared where the model calls ``tap`` for them.
    """
    with preserved(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*runs whole")
        extractor = fxfeat.create_feature_extractor(model, names, example_inputs=example)
        assert extractor.tapped
        given = (example, example, *others)
        reference = copy.deepcopy(model)
        # What both keep in a class or in a closure starts anew.
        with preserved(reference):
            expected = [_with_same_draws(eager, reference, inputs) for inputs in given]
        for inputs, seen in zip(given, expected, strict=True):
            found = _with_same_draws(run, extractor, inputs)
            for name in names:
                if name.partition("[")[0].partition("@")[0] in seen:
                    assert same_value(found[name], pick(reference, seen, name)), f"{name}:\n{extractor.code}"


def _with_same_draws(call: Any, *arguments: Any) -> Any:
    """Draw the same random numbers in Python and NumPy each time, and leave them as they were."""
    before = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        return call(*arguments)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def assert_gradients_equal(model: nn.Module, names: Sequence[str], example: Any) -> None:
    """Compare the gradients that flow back from each feature with eager's."""
    reference, mine = copy.deepcopy(model), copy.deepcopy(model)
    extractor = fxfeat.create_feature_extractor(mine, list(names), example_inputs=example)
    for name in names:
        expected = _gradients(reference, pick(reference, eager(reference, example, grad=True), name))
        found = _gradients(mine, run(extractor, example)[name])
        assert expected, f"no parameter is behind {name}"
        assert found.keys() == expected.keys(), name
        for path, gradient in expected.items():
            assert same(found[path], gradient), f"{name}: {path}"


def _gradients(model: nn.Module, feature: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    weights = torch.linspace(-1, 1, feature.numel()).reshape(feature.shape)
    (feature * weights).sum().backward()
    return {path: part.grad.clone() for path, part in model.named_parameters() if part.grad is not None}


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Assert that a block of code leaves a model, and the random state, exactly as they were."""
    before = _photograph(model)
    yield
    after = _photograph(model)
    assert before.keys() == after.keys()
    for key in before:
        assert same_value(after[key], before[key]), key


def _photograph(model: nn.Module) -> dict[str, Any]:
    taken: dict[str, Any] = {"rng": torch.get_rng_state()}
    for path, module in model.named_modules():
        for name, part in vars(module).items():
            taken[f"{path}:{name}"] = _frozen(part)
    return taken


def _frozen(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        # Tensors are told apart by identity as well: one put in place of another is a change.
        return id(value), value.detach().clone(), value.requires_grad, value._version, value.grad is None
    if isinstance(value, dict):
        return {key: _frozen(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_frozen(part) for part in value)
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)
