"""What reaches a model's result in ways that calls of torch do not show: right, checked or refused."""

from __future__ import annotations

import copy
import itertools
import sys
import threading
import types
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import nn

import fxfeat
from tests.oracle import same

X = torch.tensor([[0.5, 2.0, -1.0, 0.25], [1.5, -0.5, 3.0, 0.75]])
FIRST, LAST = torch.eye(4)[:2].clone(), torch.eye(4)[2:].clone()


class Runs(nn.Module):
    """Runs a function of itself and its inputs, and an activation on what that gives."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.linear, self.same, self.act = nn.Linear(4, 4), nn.Identity(), nn.ReLU()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, *inputs):
        return self.act(self.function(self, *inputs))


def outcome(function, example, other):
    """Say what an extractor made on an example does on other inputs: "right", "WRONG", "guard" or "refused".

    Where code is refused, taps have to be right.
    """
    torch.manual_seed(0)
    model = (function if isinstance(function, nn.Module) else Runs(function)).eval()
    example, other = (held if isinstance(held, tuple) else (held,) for held in (example, other))
    said = outcome_of(copy.deepcopy(model), example, other, "code")
    if said == "refused":
        assert outcome_of(copy.deepcopy(model), example, other, "auto") == "right"
    return said


def outcome_of(model, example, other, engine):
    reference = copy.deepcopy(model)
    try:
        extractor = fxfeat.create_feature_extractor(
            model, ["act"], example_inputs=copy.deepcopy(example), engine=engine
        )
    except fxfeat.TraceError:
        return "refused"
    assert same(extractor(*copy.deepcopy(example))["act"], reference(*copy.deepcopy(example)))
    try:
        return "right" if same(extractor(*copy.deepcopy(other))["act"], reference(*copy.deepcopy(other))) else "WRONG"
    except fxfeat.GuardError:
        return "guard"


# -- numbers read out of tensors ---------------------------------------------------------------------------------------

USED_IN_C = {
    "an expert": lambda m, x: m.experts[x[0].argmax().item()](x),
    "an expert for each row": lambda m, x: torch.stack(
        [m.experts[i](r) for i, r in zip(x.argmax(-1).tolist(), x, strict=True)]
    ),
    "an index": lambda m, x: x * [1.0, 2.0, 3.0, 4.0][x[0].argmax().item()],
    "a slice of a list": lambda m, x: x * sum([1.0, 2.0, 3.0, 4.0][: x[0].argmax().item()]),
    "a key": lambda m, x: x * {"0": 1.0, "1": 2.0, "2": 3.0}[f"{x[0].argmax().item()}"],
    "rounded in a text": lambda m, x: x * float(f"{(x * torch.arange(8.0).view(2, 4)).sum().item():.1f}"),
    "an iterator": lambda m, x: x + sum(itertools.islice([x, x * 2, x * 3], x[0].argmax().item())),
    "an old constructor": lambda m, x: x * torch.Tensor([x[0].argmax().item()]),
}
WRITTEN = {
    "a factor": lambda m, x: x * x[0].argmax().item(),
    "a bound": lambda m, x: x[:, : x[0].argmax().item() + 1] * 2,
    "arithmetic": lambda m, x: x / (x.sum().item() * 2 + 1),
}


@pytest.mark.parametrize("function", USED_IN_C.values(), ids=USED_IN_C)
def test_a_number_that_code_in_c_uses_is_checked(function):
    assert outcome(function, FIRST, LAST) in ("guard", "refused")


@pytest.mark.parametrize("function", WRITTEN.values(), ids=WRITTEN)
def test_a_number_that_is_written_out_is_free(function):
    assert outcome(function, FIRST, LAST) == "right"


# -- tensors that torch functions do not show --------------------------------------------------------------------------


def by_backward(m, x):
    x = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        (m.linear(x) ** 2).sum().backward()
    return x.grad * 1


HIDDEN = {
    "vmap": lambda m, x: torch.func.vmap(lambda row: row * row.sum())(x),
    "backward": by_backward,
    "another thread": lambda m, x: next(ThreadPoolExecutor(1).map(m.linear, [x])),
    "a deep copy": lambda m, x: copy.deepcopy(x * 2),
    "a parameter": lambda m, x: nn.Parameter(x) * 1,
    "an imaginary part": lambda m, x: _with_imaginary_part(x).abs(),
}


def _with_imaginary_part(x):
    made = torch.complex(x, x * 2)
    made.imag = x
    return made


@pytest.mark.parametrize("reads", [False, True], ids=["", "on real tensors"])
@pytest.mark.parametrize("function", HIDDEN.values(), ids=HIDDEN)
def test_a_tensor_that_is_computed_unseen(function, reads):
    """Where the code reads a value it is recorded on real tensors, among which one more does not stand out."""

    def run(m, x):
        if reads and x.max().item() > 99:
            x = -x
        return function(m, x)

    assert outcome(run, X, X * 2) in ("right", "refused")


def test_constants_on_real_tensors():
    table = torch.arange(4.0)

    def run(m, x):
        return x * table * torch.tensor([1.0, 2.0, 3.0, 4.0]) if x.max().item() < 99 else x

    assert outcome(run, X, X * 2) == "right"


# -- containers that code changes --------------------------------------------------------------------------------------


class Sums(nn.Module):
    def forward(self, held):
        return sum(value.sum() for value in (held.values() if isinstance(held, dict) else held))


class Changes(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change, self.act = change, Sums()

    def forward(self, held):
        self.change(held)
        return self.act(held)


CHANGES = {
    "another value": lambda d: d.update(x=d["x"] * 2),
    "another key": lambda d: d.update(y=d["x"] * 2),
    "a key less": lambda d: d.pop("z"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_dict_that_is_changed_before_a_module_gets_it(change):
    # The caller's own dict changes with it, which only the model's own code does.
    assert outcome(Changes(change), ({"x": X, "z": X + 1},), ({"x": X * 2, "z": X},)) == "refused"


def test_a_list_that_is_changed_before_a_module_gets_it():
    assert outcome(Changes(lambda held: held.append(held[0] * 2)), ([X, X + 1],), ([X * 2, X],)) == "refused"


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.fpn = torchvision.ops.FeaturePyramidNetwork([4, 4], 4)
        self.pool, self.act = nn.Conv2d(4, 4, 1), Sums()

    def forward(self, a, b):
        maps = self.fpn(OrderedDict(a=a, b=b))
        maps["pool"] = self.pool(maps["b"])
        return self.act(maps)


def test_a_dict_of_a_leafs_that_is_changed():
    example = torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4)
    assert outcome(Pyramid(), example, tuple(held * 2 for held in example)) == "right"


# -- inference mode ----------------------------------------------------------------------------------------------------


def test_a_write_in_inference_mode():
    def run(m, x):
        with torch.inference_mode():
            y = m.linear(x)
            y.mul_(2)
        return y + 1

    assert outcome(run, X, X * 2) == "right"


def test_an_extractor_made_in_inference_mode():
    model = Runs(lambda m, x: m.linear(x).mul_(2)).eval()
    with torch.inference_mode():
        extractor = fxfeat.create_feature_extractor(model, ["act"], example_inputs=X.clone())
        assert same(extractor(X)["act"], model(X))
    assert extractor(X)["act"].requires_grad


# -- dtypes, arguments and sizes ---------------------------------------------------------------------------------------

LOW = (torch.float16, torch.bfloat16)
DTYPES = {
    "bytes": (lambda m, x: (x.float() / 255 if x.dtype == torch.uint8 else x) * 2, X, (X * 9).byte()),
    "bfloat16": (lambda m, x: (x.float() if x.dtype in LOW else x) * 3.1, X, X.bfloat16()),
    "int32": (lambda m, x: x * 2.0 if x.dtype == torch.int32 else x * 3.0, X.long(), X.int()),
}


@pytest.mark.parametrize(("function", "example", "other"), DTYPES.values(), ids=DTYPES)
def test_a_branch_on_a_dtype(function, example, other):
    assert outcome(function, example, other) == "guard"


def test_a_module_that_does_not_run_in_other_dtypes():
    model = Runs(lambda m, x: m.linear(x) if x.dtype == torch.float32 else x * 2).eval()
    extractor = fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
    assert same(extractor(X)["linear"], model.linear(X))
    with pytest.raises(fxfeat.GuardError):
        extractor(X.double())


@dataclass
class Config:
    factor: int = 2


ARGUMENTS = {
    "a list": ([2, 3], [5, 3]),
    "a longer list": ([2, 3], [2, 3, 4]),
    "a tuple": ((2, 3), (5, 3)),
    "a size": (torch.Size([2, 3]), torch.Size([5, 3])),
    "a dict": ({0: 2}, {0: 5}),
    "a list in a dict": ({0: [2]}, {0: [5]}),
    "a config": (Config(2), Config(5)),
}


def _first(held):
    if isinstance(held, Config):
        return held.factor
    return _first(held[0]) if isinstance(held, (tuple, list, dict)) else held


@pytest.mark.parametrize(("given", "other"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_without_tensors_are_checked(given, other):
    assert outcome(lambda m, x, held: x * _first(held), (X, given), (X, other)) == "guard"
    assert outcome(lambda m, x, held: x * _first(held), (X, given), (X, given)) == "right"


def test_a_list_beside_a_tensor_is_checked():
    given, other = {"x": X, "sizes": [2, 3]}, {"x": X, "sizes": [2, 3, 4]}
    assert outcome(lambda m, held: held["x"] * len(held["sizes"]), (given,), (other,)) == "guard"


def test_an_argument_that_code_changes_stays_the_users():
    given = [2.0]
    model = Runs(lambda m, x, held: (held.append(1.0), x * held[0])[1])
    extractor = fxfeat.create_feature_extractor(model, ["act"], example_inputs=(X, given))
    assert given == [2.0]
    assert extractor.eval().code == extractor.train().code


SIZES = {
    "a small width": (lambda m, x: x * [0, 1, 2, 3, 4, 5, 6, 7, 8][x.shape[3]], (2, 3, 4, 4), (2, 3, 6, 6)),
    "frames": (lambda m, x: sum(itertools.islice([x, x * 2, x * 3, x], x.shape[1])), (1, 2, 3, 8, 8), (1, 3, 3, 8, 8)),
}


@pytest.mark.parametrize(("function", "shape", "other"), SIZES.values(), ids=SIZES)
def test_a_size_that_code_in_c_uses(function, shape, other):
    assert outcome(function, torch.rand(shape), torch.rand(other)) == "guard"


@torch.jit.script
def squeezed(x):
    return x.squeeze(0)


QUESTIONS = {
    "is_same_size": (lambda m, x, y: x + y if x.is_same_size(y) else x - y, (X, X), (X, X[:1])),
    "is_sparse": (
        lambda m, a, x: torch.sparse.mm(a, x) if a.is_sparse else a @ x * 3,
        (torch.eye(4), torch.rand(4, 4)),
        (torch.eye(4).to_sparse(), torch.rand(4, 4)),
    ),
    "a rank behind a script": (
        lambda m, x: squeezed(x) * (2 if squeezed(x).dim() == 2 else 3),
        torch.rand(2, 3, 4),
        torch.rand(1, 3, 4),
    ),
}


@pytest.mark.parametrize(("function", "example", "other"), QUESTIONS.values(), ids=QUESTIONS)
def test_questions_are_checked(function, example, other):
    assert outcome(function, example, other) == "guard"


# -- state -------------------------------------------------------------------------------------------------------------


class KeepsLoudness(nn.Module):
    """What it keeps for the next call is the same for an input and its mirror image."""

    def __init__(self):
        super().__init__()
        self.kept, self.act = None, nn.ReLU()

    def forward(self, x):
        loudness = x.abs().mean()
        before, self.kept = (loudness if self.kept is None else self.kept), loudness
        return self.act(x * before)


class KeepsWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.kept, self.embed, self.act = None, nn.Embedding(9, 4), nn.ReLU()

    def forward(self, x):
        words = self.embed(x)
        before, self.kept = (words if self.kept is None else self.kept), words
        return self.act(words * before)


def test_state_of_a_mirror_image_and_of_numbers():
    assert outcome(KeepsLoudness(), X, X * 2) == "refused"
    assert outcome(KeepsWords(), torch.arange(8).view(2, 4), torch.zeros(2, 4, dtype=torch.int64)) == "refused"


TABLES = """
import contextvars
import torch

_kept = {}
_variable = contextvars.ContextVar("table", default=None)

def of_function(n):
    if n not in _kept:
        _kept[n] = torch.arange(float(n))
    return _kept[n]

class Tables:
    kept = {}
    last = None

    @classmethod
    def of_class(cls, n):
        if n not in cls.kept:
            cls.kept[n] = torch.arange(float(n))
        cls.last = n
        return cls.kept[n]

def of_context(n):
    if _variable.get() is None:
        _variable.set(torch.arange(float(n)))
    return _variable.get()
"""


@pytest.fixture
def tables():
    """A file beside the model's, which keeps tables once they are made."""
    made = types.ModuleType("tables_beside_the_model")
    sys.modules[made.__name__] = made
    exec(TABLES, made.__dict__)
    yield made
    del sys.modules[made.__name__]


@pytest.mark.parametrize("place", ["of_function", "of_class", "of_context"])
def test_a_cache_in_another_file_is_left_as_it_was(tables, place):
    table = tables.Tables.of_class if place == "of_class" else getattr(tables, place)

    class Adds(nn.Module):
        def forward(self, x):
            return x + self.rows(x)

        def rows(self, x):
            return [table(n) for n in (x.shape[-1],)].pop()

    class AddsByName(nn.Module):
        def forward(self, x):
            if place == "of_class":
                return x + tables.Tables.of_class(x.shape[-1])
            return x + (tables.of_function if place == "of_function" else tables.of_context)(x.shape[-1])

    for inner in (AddsByName(), Adds()):
        model = nn.Sequential(inner, nn.ReLU())
        extractor = fxfeat.create_feature_extractor(model, ["1"], example_inputs=X)
        assert tables._kept == tables.Tables.kept == {}
        assert tables._variable.get() is None
        assert same(extractor(X)["1"], model(X))
        tables._kept.clear()
        tables.Tables.kept.clear()
        tables._variable.set(None)


def test_two_threads_at_once():
    plain, errors = nn.Module.__call__, []

    def work():
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(8)))
        try:
            for _ in range(4):
                fxfeat.create_feature_extractor(model, ["3"], example_inputs=X)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert nn.Module.__call__ is plain


class CountsInAnArray(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(4))
        self.act = nn.ReLU()

    def forward(self, x):
        self.count.numpy()[:] += 1
        return self.act(x * torch.from_numpy(self.count.numpy() * 2))


def test_a_buffer_by_way_of_an_array():
    """An array made of a buffer would be a constant, and what is written to it would reach the model's own buffer."""
    assert outcome(CountsInAnArray(), X, X) == "refused"
    model = nn.Sequential(CountsInAnArray(), nn.ReLU())
    fxfeat.create_feature_extractor(model, ["1"], example_inputs=X)
    assert torch.equal(model[0].count, torch.zeros(4))
