"""``verify``: right about every kind of feature, quick where it can be, and without a trace in the model."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

import fxfeat
from fxfeat.eager import observe as eager
from fxfeat.eager.look import looking
from fxfeat.trace.recorder import Recorder


def make(model, *names, inputs=None):
    return fxfeat.create_feature_extractor(
        model, list(names), example_inputs=torch.rand(2, 4) if inputs is None else inputs
    )


def spoil(extractor):
    """Make an extractor return what is not the model's."""
    extractor.register_forward_hook(lambda module, given, result: {key: value + 1 for key, value in result.items()})


@pytest.fixture
def recorded(monkeypatch):
    """Note which features take a recording of the model to be compared."""
    names: list[str] = []
    watched = eager._watched

    def note(model, leaves, rows, *rest):
        names.extend(row.name for row in rows)
        watched(model, leaves, rows, *rest)

    monkeypatch.setattr(eager, "_watched", note)
    return names


# -- operations --------------------------------------------------------------------------------------------------------


class Operations(nn.Module):
    """Calls functions of one name before, inside and after a block that is called twice."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            x = x + 1
            x = self.linear(x) + x
            return x + x.sum()

    def __init__(self):
        super().__init__()
        self.block = self.Block()

    def forward(self, x):
        x = x + 3
        x = self.block(x) + 2
        first, second = self.block(x + 1).chunk(2, 1)
        return (first + second).relu_()


def test_operations_are_told_apart(recorded):
    model = Operations().eval()
    names = fxfeat.get_graph_node_names(model, example_inputs=torch.rand(2, 4))[1]
    operations = [name for name in names if name not in dict(model.named_modules())]
    assert {"x", "block.add_1", "chunk", "add_3"} <= set(operations)
    verification = fxfeat.verify(model, make(model, *operations), torch.rand(2, 4))
    assert verification.ok
    assert recorded == []


@pytest.mark.parametrize(
    "name", ["x", "add", "block.add_1", "block.add_2", "add_1", "chunk[1]", "add_3", "relu_", "block"]
)
def test_a_wrong_value_is_found(name):
    model = Operations()
    extractor = make(model, name)
    spoil(extractor)
    verification = fxfeat.verify(model, extractor, torch.rand(2, 4))
    assert not verification.ok
    assert verification.max_abs_diff[name] == pytest.approx(1, abs=1e-5)


class CountsOtherwise(nn.Module):
    """Calls an addition more on real tensors than on those that a recording runs on."""

    def forward(self, x):
        if not isinstance(_get_current_function_mode(), Recorder):
            torch.zeros(1) + 1
        return (x + 1) * (x + 2)


def test_where_calls_do_not_count_the_same_the_model_is_recorded(recorded):
    model = CountsOtherwise()
    extractor = make(model, "add", "add_1", "mul")
    assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
    # On the input given, and on other values.
    assert recorded == ["add", "add_1"] * 2


class FastAttention(nn.Module):
    """Its layer takes another way under a mode that listens, with other last digits."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x) + 1


def test_a_layer_with_a_fast_path_takes_it(recorded):
    model = FastAttention().eval()
    inputs = torch.rand(2, 5, 8)
    with torch.no_grad():
        assert fxfeat.verify(model, make(model, "add", inputs=inputs), inputs).ok
    assert recorded == []


class ModeOfItsOwn(nn.Module):
    class Doubling(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            return result * 2 if func is nn.functional.linear else result

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = x * 3
        with self.Doubling():
            x = self.linear(x)
        return x * 5


def test_a_mode_that_the_model_enters_is_left_in_turn():
    model, x = ModeOfItsOwn(), torch.rand(2, 4)
    occurrence = []
    row = make(model, "mul").rows[0]
    with looking(model, {(model, 0): [(row, row.origin.sign)]}, lambda row, value: occurrence.append(value)):
        result = model(x)
    assert torch.equal(result, model(x))
    assert len(occurrence) == 1
    assert torch.equal(occurrence[0], x * 3)
    assert torch._C._len_torch_function_stack() == 0


class Raising(nn.Module):
    class Block(nn.Module):
        def forward(self, x):
            raise RuntimeError("a block that raises")

    def __init__(self):
        super().__init__()
        self.block = self.Block()

    def forward(self, x):
        y = x + 1
        try:
            y = self.block(y)
        except RuntimeError:
            y = y + 2
        return y * 3


def test_an_error_that_the_model_catches_ends_its_block():
    model = Raising()
    assert fxfeat.verify(model, make(model, "add", "add_1", "mul"), torch.rand(2, 4)).ok
    assert torch._C._len_torch_function_stack() == 0


class Cached(nn.Module):
    @functools.lru_cache(maxsize=2)  # noqa: B019
    def _table(self, n):
        return torch.arange(n, dtype=torch.float32) * 2

    def forward(self, x):
        return x + self._table(x.shape[1])


def test_an_operation_that_a_cache_spares_the_model():
    model = Cached()
    extractor = make(model, "arange", "mul")
    model(torch.rand(2, 4))
    for _ in range(2):
        assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok


# -- many modules ------------------------------------------------------------------------------------------------------


def test_a_hook_of_the_users_own_among_many_modules():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    model[5].register_forward_hook(lambda module, given, result: result * 2)
    extractor = make(model, *(str(index) for index in range(12)))
    assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
    spoil(extractor)
    assert [row.equal for row in fxfeat.verify(model, extractor, torch.rand(2, 4)).rows] == [False] * 12


def test_hooks_are_taken_off_again():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    extractor = make(model, *(str(index) for index in range(12)))
    with pytest.raises(RuntimeError):
        fxfeat.verify(model, extractor, torch.rand(2, 5))
    assert not torch.nn.modules.module._global_forward_hooks
    assert not any(module._forward_hooks for module in model.modules())


# -- state -------------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        self.n += 1
        return x * self.n


class CountingInPython(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.linear = [], nn.Linear(4, 4)

    def forward(self, x):
        self.calls.append(len(self.calls))
        return self.linear(x)


class WritesAtAnotherSize(nn.Module):
    """Keeps a table for the length that it saw last."""

    def __init__(self):
        super().__init__()
        self.linear, self.table = nn.Linear(4, 4), torch.arange(2.0)

    def forward(self, x):
        if len(self.table) != len(x):
            self.table = torch.arange(float(len(x)))
        return self.linear(x) + self.table[:, None]


class Norm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4), nn.BatchNorm1d(4))


class SetsItselfUp(nn.Module):
    """Puts a hook on its child when it is first run, and keeps a table."""

    def __init__(self):
        super().__init__()
        self.linear, self.table = nn.Linear(4, 4), None

    def forward(self, x):
        if self.table is None:
            self.linear.register_forward_hook(look_on)
            self.table = [2]
        return self.linear(x) * self.table[0]


def look_on(module, inputs, result):
    pass


SET_UP = []


class SetsUpAGlobal(SetsItselfUp):
    """Notes its first run outside of itself as well."""

    def forward(self, x):
        if not SET_UP:
            SET_UP.append(True)
        return super().forward(x)


class ChangesLater(SetsItselfUp):
    """Counts from the second run on."""

    def forward(self, x):
        if self.table is not None:
            self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)


class WritesLater(SetsItselfUp):
    """Writes to a buffer from the second run on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        if self.table is not None:
            self.n.add_(1)
        return super().forward(x)


class ThrowsItsTablesAway(nn.Module):
    """Keeps a table for each device until the mode is set."""

    def __init__(self):
        super().__init__()
        self.linear, self.tables = nn.Linear(4, 4), {}

    def train(self, mode=True):
        self.tables.clear()
        return super().train(mode)

    def forward(self, x):
        if str(x.device) not in self.tables:
            self.tables[str(x.device)] = self.linear.weight.sum(0)
        return self.linear(x) * self.tables[str(x.device)]


class KeepsItsTable(nn.Module):
    """Puts its table where it is, in the dtype of the input; after the last feature."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.rand(4))

    def forward(self, x):
        y = x.float() * self.table
        self.table = self.keep(x)
        return y

    def keep(self, x):
        return self.table.type_as(x)


class KeepsItsTableTwice(KeepsItsTable):
    def keep(self, x):
        self.table = self.table
        return super().keep(x).contiguous()


class KeepsAView(KeepsItsTable):
    def keep(self, x):
        return self.table[:]


class KeepsAndWrites(KeepsItsTable):
    def keep(self, x):
        self.table = super().keep(x)
        return self.table.mul_(2)


class KeepsAnotherFirst(KeepsItsTable):
    def keep(self, x):
        self.table = self.table + 1
        return super().keep(x)


class ChecksValues(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)

    def forward(self, x):
        torch._check(bool((x > -1).all()))
        assert x.sum() > 0
        return super().forward(x)


class CountsLargeOnes(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if x.max() > 7:
            self.count += 1
        return x + 1


class CountsPositiveRows(CountsLargeOnes):
    def forward(self, x):
        for _ in (x > 7).nonzero():
            self.count += 1
        return x + 1


STATELESS = [
    (ThrowsItsTablesAway, False),
    (KeepsItsTable, False),
    (KeepsItsTableTwice, False),
    (Operations, False),
    (FastAttention, False),
    (WritesAtAnotherSize, True),
    (Norm, False),
    (SetsItselfUp, True),
    (ChecksValues, False),
]
STATEFUL = [
    (Counting, True),
    (ChangesLater, True),
    (SetsUpAGlobal, True),
    (WritesLater, True),
    (CountingInPython, True),
    (KeepsAView, False),
    (KeepsAndWrites, False),
    (KeepsAnotherFirst, False),
    (Norm, True),
    (CountsLargeOnes, False),
    (CountsPositiveRows, False),
]


def is_stateless(kind, training):
    model = kind().train(training)
    names = [name for name, _ in model.named_children()][-1:] or ["output"]
    inputs = torch.rand(2, 5, 8) if kind is FastAttention else torch.rand(2, 4)
    return make(model, *names, inputs=inputs).emission.purity is not None


@pytest.mark.parametrize(("kind", "training"), STATELESS)
def test_a_model_that_a_run_does_not_change(kind, training):
    assert is_stateless(kind, training)


@pytest.mark.parametrize(("kind", "training"), STATEFUL)
def test_a_model_that_a_run_changes(kind, training):
    assert not is_stateless(kind, training)


def test_a_scripted_part_may_change():
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)))
    assert make(model, "0").emission.purity is None


@pytest.mark.parametrize("kind", [Counting, CountingInPython, WritesAtAnotherSize, Norm, SetsItselfUp])
def test_the_model_comes_back_as_it_was(kind):
    model = kind().train()
    extractor = make(model, "output")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = dict(vars(model))
    calls = list(kept.get("calls", ()))
    example = torch.rand(2, 4)
    for inputs in (example, torch.rand(3, 4)):
        try:
            assert fxfeat.verify(model, extractor, inputs).ok
        except fxfeat.GuardError:
            assert kind is WritesAtAnotherSize
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(vars(model)[name] is value for name, value in kept.items())
    assert list(getattr(model, "calls", ())) == calls


def test_a_hook_that_counts_was_put_on_later():
    calls: list[int] = []
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    extractor = make(model, "0")
    model[0].register_forward_hook(lambda module, given, result: calls.append(len(calls)))
    assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
    assert calls == []


class Drops(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training) + 1


def test_a_model_in_another_mode_runs_in_the_extractors_and_comes_back():
    model = nn.Sequential(nn.Linear(4, 4), Drops(), nn.Linear(4, 4)).eval()
    extractor = make(model, "1.dropout")
    model[1].train()
    assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
    assert [module.training for module in model.modules()] == [False, False, True, False]


class Sparse(nn.Module):
    def forward(self, x):
        return torch.sparse.mm(x.to_sparse(), x.t())


def test_a_sparse_feature():
    model = Sparse()
    extractor = make(model, "to_sparse")
    assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
    spoiled = make(model, "to_sparse")
    spoiled.register_forward_hook(lambda module, given, result: {key: value * 2 for key, value in result.items()})
    assert not fxfeat.verify(model, spoiled, torch.ones(2, 4)).ok


class ShrinksItsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.last = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        self.linear.weight.data.mul_(0.5)
        return self.last(self.linear(x))


def test_a_run_that_writes_to_parameters_is_undone():
    for model, inputs in ((ShrinksItsWeight(), torch.rand(2, 4)), (nn.Embedding(5, 4, max_norm=1.0), torch.arange(5))):
        before = [held.detach().clone() for held in model.parameters()]
        wrapped = nn.Sequential(model, nn.ReLU())
        extractor = make(wrapped, "0", "1", inputs=inputs)
        assert fxfeat.verify(wrapped, extractor, inputs).ok
        assert all(torch.equal(held, value) for held, value in zip(model.parameters(), before, strict=True))


class Named(nn.Module):
    def forward(self, x):
        return {"tensor": x * 2, "number": 3.0}


def test_other_keys_and_numbers_are_found():
    model = nn.Sequential(Named())
    for other in ({"tensor": "tensor", "number": 4.0}, {"another": "tensor", "number": 3.0}):
        extractor = make(model, "0")
        assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
        extractor.register_forward_hook(
            lambda module, given, result, other=other: {
                "0": {key: result["0"]["tensor"] if held == "tensor" else held for key, held in other.items()}
            }
        )
        row = fxfeat.verify(model, extractor, torch.rand(2, 4)).rows[0]
        assert not row.equal
        assert row.note == "keys or numbers differ from the model's"


def test_complex_numbers_that_are_none():
    model = nn.Sequential(Complex())
    assert fxfeat.verify(model, make(model, "0"), torch.rand(2, 4)).ok


class Complex(nn.Module):
    def forward(self, x):
        return torch.complex(x * float("nan"), x)


class Returning(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


LARGE = {
    "plain": lambda x: x + 1,
    "odd": lambda x: x[:, 1:].reshape(-1)[:-1].contiguous(),
    "half": torch.Tensor.half,
    "transposed": lambda x: (x + 1).t(),
    "none of a number": lambda x: x.where(x < 0.5, torch.nan),
    "zeros of a sign": lambda x: -torch.zeros_like(x),
    "a conjugate": lambda x: torch.complex(x, x).conj(),
    "an imaginary part": lambda x: torch.complex(x, x + 1).conj().imag,
    "a negation": lambda x: torch._neg_view(x + 1),
    "eight bits": lambda x: x.to(torch.float8_e4m3fn),
    "whole numbers": lambda x: (x * 100).to(torch.int64),
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_values(kind):
    model, x = nn.Sequential(Returning(LARGE[kind])), torch.rand(102, 102)
    extractor = make(model, "0", inputs=x)
    assert fxfeat.verify(model, extractor, x).ok
    extractor.register_forward_hook(lambda module, given, result: {"0": change_last(result["0"])})
    assert not fxfeat.verify(model, extractor, x).ok


def change_last(value):
    changed = value.resolve_conj().clone()
    changed[(-1,) * changed.ndim] = 777
    return changed


@pytest.mark.parametrize("kind", [KeepsItsTable, KeepsItsTableTwice, KeepsAView, KeepsAndWrites, KeepsAnotherFirst])
def test_a_table_in_the_dtype_of_the_last_input(kind):
    model = kind().eval()
    table = model.table
    extractor = make(model, "mul", inputs=torch.rand(2, 4))
    assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
    assert model.table is table
    eager = copy.deepcopy(model)
    for dtype in (torch.float32, torch.float16, torch.float32):
        x = torch.rand(2, 4, dtype=dtype)
        assert torch.equal(extractor(x)["mul"], eager(x))


@pytest.mark.parametrize("runs", [0, 1])
def test_tables_that_the_model_keeps_are_those_it_had(runs):
    model = ThrowsItsTablesAway().eval()
    extractor = make(model, "linear", inputs=torch.rand(2, 4))
    for _ in range(runs):
        model(torch.rand(2, 4))
    tables = dict(model.tables)
    assert len(tables) == runs
    assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
    assert list(model.tables) == list(tables)
    assert all(model.tables[key] is table for key, table in tables.items())


@pytest.mark.parametrize("runs", [0, 1])
def test_a_model_that_sets_itself_up_comes_back_set_up_or_not(runs):
    model = SetsItselfUp().eval()
    extractor = make(model, "linear", inputs=torch.rand(2, 4))
    for _ in range(runs):
        model(torch.rand(2, 4))
    hooks, table = dict(model.linear._forward_hooks), model.table
    assert extractor.emission.purity.changing == ("", "linear")
    assert fxfeat.verify(model, extractor, torch.rand(2, 4)).ok
    assert model.linear._forward_hooks == hooks
    assert model.table is table
