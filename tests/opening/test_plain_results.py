"""What a whole module returns besides tensors, and what is read out of tensors, is right on every input, or refused."""

import contextlib
import contextvars
import enum
import types

import pytest
import torch
from torch import nn

import fxfeat


class Kind(enum.Enum):
    FIRST = "first"
    SECOND = "second"


class Answer:
    def __init__(self, tensor, text):
        self.tensor, self.text = tensor, text


INPUTS = [torch.full((2, 4), value) + torch.rand(2, 4) for value in (0.5, -2.0, 3.0, -0.5)]
COUNT = contextvars.ContextVar("count", default=0)


class Gate(nn.Module):
    def __init__(self, decide):
        super().__init__()
        self.layer, self.decide = nn.Linear(4, 4), decide

    def forward(self, x):
        return self.decide(self.layer(x), x)


class MaybeNone(Gate):
    def forward(self, x):
        return self.layer(x) if is_positive(x) else None


class Goes(nn.Module):
    """Goes by what a gate returns."""

    def __init__(self, decide, use):
        super().__init__()
        self.gate = MaybeNone(decide) if decide is None else Gate(decide)
        self.use, self.first, self.second = use, nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.use(self, self.gate(x), x)


def is_positive(x):
    return bool(x.sum() > 0)


def choose(model, choice, x):
    return model.first(x) if choice else model.second(x)


def mark(tensor, is_first):
    tensor.is_first = is_first
    return tensor


def halve(model, tensor, array):
    array[:] = array / 2
    return model.first(tensor)


RESULTS = {
    "a bool": (lambda y, x: is_positive(x), choose),
    "a bool beside a tensor": (lambda y, x: (y, is_positive(x)), lambda m, r, x: choose(m, r[1], r[0])),
    "an int": (lambda y, x: 1 if is_positive(x) else 0, lambda m, r, x: (m.first, m.second)[r](x)),
    "a float": (lambda y, x: float(x.sum()), lambda m, r, x: m.first(x) * r),
    "a text": (lambda y, x: "first" if is_positive(x) else "second", lambda m, r, x: getattr(m, r)(x)),
    "None": (None, lambda m, r, x: m.first(x) if r is None else m.second(r)),
    "an index": (lambda y, x: int(is_positive(x)), lambda m, r, x: nn.ModuleList([m.first, m.second])[r](x)),
    "an index that was read": (lambda y, x: (x.sum() > 0).int().item(), lambda m, r, x: list(m.children())[r + 1](x)),
    "an array": (lambda y, x: x.numpy(), lambda m, r, x: m.first(x) * float(r.max())),
    "a set": (lambda y, x: {float(x.max())}, lambda m, r, x: m.first(x) * max(r)),
    "an array that is written to": (lambda y, x: (y, y.detach().numpy()), lambda m, r, x: halve(m, *r)),
    "a key": (lambda y, x: {is_positive(x): y}, lambda m, r, x: m.first(r[True]) if True in r else m.second(r[False])),
    "an enum": (
        lambda y, x: Kind.FIRST if is_positive(x) else Kind.SECOND,
        lambda m, r, x: getattr(m, r.value)(x),
    ),
    "an enum beside a tensor": (
        lambda y, x: (y, Kind.FIRST if is_positive(x) else Kind.SECOND),
        lambda m, r, x: choose(m, r[1] is Kind.FIRST, r[0]),
    ),
    "a function": (lambda y, x: torch.relu if is_positive(x) else torch.tanh, lambda m, r, x: r(m.first(x))),
    "a class": (lambda y, x: nn.ReLU if is_positive(x) else nn.Tanh, lambda m, r, x: r()(m.first(x))),
    "a range": (lambda y, x: range(3 if is_positive(x) else 2), lambda m, r, x: m.first(x) * len(r)),
    "a dtype": (
        lambda y, x: torch.float64 if is_positive(x) else torch.float32,
        lambda m, r, x: choose(m, r is torch.float64, x),
    ),
    "an object of its own class": (
        lambda y, x: Answer(y, "first" if is_positive(x) else "second"),
        lambda m, r, x: choose(m, r.text == "first", r.tensor),
    ),
    "a namespace": (
        lambda y, x: types.SimpleNamespace(tensor=y, extra=None if is_positive(x) else 1),
        lambda m, r, x: choose(m, r.extra is None, r.tensor),
    ),
    "tensors in a list": (lambda y, x: [y] * (3 if is_positive(x) else 2), lambda m, r, x: m.first(sum(r)) * len(r)),
    "a generator": (
        lambda y, x: (part for part in ([y, x] if is_positive(x) else [y])),
        lambda m, r, x: m.first(sum(r)),
    ),
    "an attribute of a tensor": (lambda y, x: mark(y, is_positive(x)), lambda m, r, x: choose(m, r.is_first, r)),
    "a number in a list": (lambda y, x: [y, float(x.max())], lambda m, r, x: m.first(r[0]) * r[1]),
}
READS = {
    "bools that choose": lambda m, x: torch.stack([x[i] if k else -x[i] for i, k in enumerate((x[:, 0] > 0).tolist())]),
    "bools that are counted": lambda m, x: m.first(x) * (x[:, 0] > 0).tolist().count(True),
    "a complex number": lambda m, x: m.first(x) * abs(torch.fft.fft(x[0])[1].item()),
    "a text of a number": lambda m, x: m.first(x) * float(f"{x.sum():.2f}"),
    "the length of a text": lambda m, x: m.first(x) * len(repr(x.sum())),
}
QUESTIONS = {
    "the type of a size": lambda m, x: m.first(x) * (2 if type(x.shape[1]) is int else 3),
    "the type of an item": lambda m, x: m.first(x) * (2 if type(x.sum().item()) is float else 3),
    "the type of a shape": lambda m, x: m.first(x) * (2 if type(x.shape) is torch.Size else 3),
    "the base of a view": lambda m, x: m.first(x) * (2 if m.first(x)[:, :2]._base is None else 3),
    "inference mode": lambda m, x: m.first(x) * (2 if x.is_inference() else 3),
}


class Does(nn.Module):
    def __init__(self, do):
        super().__init__()
        self.do, self.first, self.second = do, nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.do(self, x)


def check_on_all(model, engine):
    """Compare on all inputs; where the path is another one a guard may refuse, but not on the example."""
    with contextlib.suppress(fxfeat.TraceError):
        extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=INPUTS[0], engine=engine)
        for index, x in enumerate(INPUTS):
            try:
                assert torch.equal(extractor(x)["output"], model(x))
            except fxfeat.GuardError:
                assert index > 0
        return
    assert engine == "code"


@pytest.mark.parametrize("engine", ["auto", "code", "tap"])
@pytest.mark.parametrize("kind", RESULTS)
@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_a_whole_module_returns(kind, engine):
    check_on_all(Goes(*RESULTS[kind]).eval(), engine)


@pytest.mark.parametrize("engine", ["auto", "code", "tap"])
@pytest.mark.parametrize("kind", {**READS, **QUESTIONS})
@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_opened_code_goes_by(kind, engine):
    check_on_all(Does({**READS, **QUESTIONS}[kind]).eval(), engine)


def counts_in_a_context_variable(model, x):
    COUNT.set(COUNT.get() + 1)
    return model.first(x) * COUNT.get()


@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_a_context_variable():
    model = Does(counts_in_a_context_variable).eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=INPUTS[0])
    for count in (1, 2, 3):
        assert torch.equal(extractor(INPUTS[0])["output"], model.first(INPUTS[0]) * count)
    with pytest.raises(fxfeat.TraceError, match="sets context variables"):
        fxfeat.create_feature_extractor(model, ["output"], example_inputs=INPUTS[0], engine="code")


def tries_a_shape(model, x):
    try:
        return model.first(x).view(x.shape[0], -1, 4, 8)
    except RuntimeError:
        return model.second(x)


def tries_a_decomposition(model, x):
    try:
        return torch.linalg.cholesky(x)
    except RuntimeError:
        return model.first(x)


@pytest.mark.parametrize("engine", ["auto", "tap"])
@pytest.mark.parametrize(
    ("do", "inputs"),
    [
        (tries_a_shape, [torch.rand(2, rows, 4) for rows in (16, 9, 8)]),
        (tries_a_decomposition, [torch.eye(4), torch.zeros(4, 4), torch.eye(4) * 3]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_an_error_that_the_example_does_not_raise(do, inputs, engine):
    model = Does(do).eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=inputs[0], engine=engine)
    for x in inputs:
        assert torch.equal(extractor(x)["output"], model(x))
    with pytest.raises(fxfeat.TraceError, match="an error that other inputs may raise is caught around"):
        fxfeat.create_feature_extractor(model, ["output"], example_inputs=inputs[0], engine="code")


def detaches(model, x):
    y = model.first(x)
    y.detach_()
    return model.second(y)


def keeps_gradients(model, x):
    return model.first(x).detach().requires_grad_() * 2


@pytest.mark.parametrize("do", [detaches, keeps_gradients])
@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_gradients_in_opened_code(do):
    model = Does(do)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=INPUTS[0])
    result = extractor(INPUTS[0])["output"]
    assert result.requires_grad == model(INPUTS[0]).requires_grad
    result.sum().backward()
    assert model.first.weight.grad is None


class Cache:
    def __init__(self):
        self.keys = torch.ones(2, 3, 4)


class Caches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, cache):
        cache.keys = torch.cat([cache.keys, self.first(x)], 1)
        return self.second(cache.keys.sum(1))


@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_an_argument_that_is_written_to():
    model, x, example, ours, theirs = Caches().eval(), torch.rand(2, 1, 4), Cache(), Cache(), Cache()
    extractor = fxfeat.create_feature_extractor(model, ["second", "output"], example_inputs=(x, example))
    assert torch.equal(example.keys, torch.ones(2, 3, 4))
    for _ in range(3):
        assert torch.equal(extractor(x, ours)["output"], model(x, theirs))
    assert torch.equal(ours.keys, theirs.keys)


@pytest.mark.parametrize("wrap", [lambda model: torch.compile(model, backend="eager"), nn.DataParallel])
def test_names_leave_a_wrapper_out(wrap):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    extractor = fxfeat.create_feature_extractor(wrap(model), ["1"], example_inputs=INPUTS[0])
    assert torch.equal(extractor(INPUTS[0])["1"], model[:2](INPUTS[0]))


def test_torch_fx_traces_a_checked_extractor():
    model = Does(lambda m, x: m.first(x) if x.shape[0] > 1 else m.second(x)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=INPUTS[0])
    assert extractor.guards
    traced = torch.fx.symbolic_trace(extractor)
    assert torch.equal(traced(INPUTS[0])["output"], model(INPUTS[0]))


def sets_an_attribute_of_a_class(module):
    type(module).calls = getattr(type(module), "calls", 0) + 1


@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_what_code_sets_is_left_as_it_was():
    def do(model, x):
        do.calls += 1
        model.first.weight.steps += 1
        sets_an_attribute_of_a_class(model)
        return model.first(x)

    do.calls = 0
    model = Does(do).eval()
    model.first.weight.steps = 0
    with contextlib.suppress(fxfeat.FxfeatError):
        fxfeat.create_feature_extractor(model, ["first"], example_inputs=INPUTS[0])
    assert (do.calls, model.first.weight.steps, hasattr(Does, "calls")) == (0, 0, False)


# -- what a whole module leaves in what it is given --------------------------------------------------------------------


class Leaves(nn.Module):
    def __init__(self, value, put):
        super().__init__()
        self.layer, self.value, self.put = nn.Linear(4, 4), value, put

    def forward(self, x, notes):
        self.put(notes, self.value(x))
        return self.layer(x)


class Reads(nn.Module):
    def __init__(self, value, put, notes, read):
        super().__init__()
        self.child, self.notes, self.read = Leaves(value, put), notes, read
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        notes = self.notes()
        y = self.child(x, notes)
        return choose(self, self.read(notes) in (True, 3, 2.5, "first", None, Kind.FIRST), y)


LEFT = {
    "a bool": is_positive,
    "an int": lambda x: 3 if is_positive(x) else 4,
    "a float": lambda x: 2.5 if is_positive(x) else 3.5,
    "a text": lambda x: "first" if is_positive(x) else "second",
    "None": lambda x: None if is_positive(x) else 1,
    "an enum": lambda x: Kind.FIRST if is_positive(x) else Kind.SECOND,
}
PLACES = {
    "a list": (lambda notes, value: notes.append(value), list, lambda notes: notes[-1]),
    "a dict": (lambda notes, value: notes.update(value=value), dict, lambda notes: notes["value"]),
    "a dict in a list": (
        lambda notes, value: notes[0].update(value=value),
        lambda: [{}],
        lambda notes: notes[0]["value"],
    ),
}


@pytest.mark.parametrize("value", LEFT.values(), ids=LEFT.keys())
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_what_is_left_in_an_argument_is_right_or_refused(value, place):
    model = Reads(value, *place)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=INPUTS[0], engine="code")
    assert torch.equal(extractor(INPUTS[0])["output"], model(INPUTS[0]))
    with pytest.raises(fxfeat.GuardError, match=r"return bool\(x.sum\(\) > 0\)"):
        extractor(INPUTS[1])


class Halves(nn.Module):
    """Decides on a size inside, and gives a tensor whatever that is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x).relu() if x.shape[0] < 64 else x


class Scales(nn.Module):
    """Reads a value of its own making, which fake tensors know and meta tensors do not."""

    def __init__(self):
        super().__init__()
        self.block, self.head = Halves(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(x) * torch.tensor(2.0).item())


def test_what_torch_puts_on_fake_tensors_opens_no_module():
    extractor = fxfeat.create_feature_extractor(
        Scales().eval(), ["block", "head"], example_inputs=torch.rand(2, 4), engine="code"
    )
    assert "self.block(x)" in extractor.code
