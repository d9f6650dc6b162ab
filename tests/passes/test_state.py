"""State that eager code updates before the last feature is updated; nothing else is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, eager, run, same, tap

X = torch.randn(3, 4)
LONGER = torch.randn(6, 4)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("n", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.n += 1
        y = self.linear(x) * self.n
        tap("mul", y)
        return y


class AverageInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        y = self.linear(x)
        self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        z = y - self.mean
        tap("sub", z)
        return z


class AverageByAssignment(AverageInPlace):
    def forward(self, x):
        y = self.linear(x)
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        z = y - self.mean
        tap("sub", z)
        return z


class AverageByCopy(AverageInPlace):
    def forward(self, x):
        y = self.linear(x)
        with torch.no_grad():
            self.mean.copy_(torch.lerp(self.mean, y.mean(0), 0.1))
        z = y - self.mean
        tap("sub", z)
        return z


class Inside(nn.Module):
    """The state sits in a child that is called twice."""

    def __init__(self, child):
        super().__init__()
        self.child = child
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.child(self.child(x)))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.second = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    def forward(self, x):
        return self.second(self.first(x))


class NormBesideTheFeature(nn.Module):
    """A statistic without parameters, of no use to the feature, which eager code updates all the same."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4, affine=False)

    def forward(self, x):
        self.norm(x)
        return self.linear(x)


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = F.dropout(self.linear(x), 0.5, self.training)
        tap("dropout" if not hasattr(self, "path") else f"{self.path}.dropout", x)
        return x


class FrozenChild(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = FunctionalDropout()
        self.b = FunctionalDropout()
        self.c = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, x):
        return self.c(self.b(self.a(x)))


class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x + torch.randn_like(x))
        z = y + torch.rand(y.shape[0], 4) + torch.randn(y.size(), device=x.device).bernoulli_(0.5)
        tap("add_2", z)
        return z


class Constants(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
        steps = torch.arange(x.shape[0], dtype=x.dtype).unsqueeze(1)
        ones = torch.ones(4)
        ones[1] = 5.0
        y = self.linear(x) * scale + steps * ones
        tap("add", y)
        return y


@pytest.mark.parametrize("model", [AverageInPlace, AverageByAssignment, AverageByCopy], ids=lambda m: m.__name__)
def test_averages_move_as_in_eager(model):
    assert_equals_eager(model(), ["linear", "sub"], X, LONGER, X)


@pytest.mark.parametrize("child", [Counter, AverageInPlace, AverageByAssignment], ids=lambda m: m.__name__)
def test_state_of_a_child_called_twice_moves_as_in_eager(child):
    assert_equals_eager(Inside(child()), ["child", "head"], X, LONGER, X)


@pytest.mark.parametrize("child", [Counter, AverageInPlace, AverageByAssignment], ids=lambda m: m.__name__)
def test_values_inside_a_child_called_twice(child):
    assert_equals_eager(Inside(child()), ["child@0", "child", "child.linear", "child.linear@1"], X)


def test_a_counter_counts():
    assert_equals_eager(Counter(), ["linear", "mul"], X, X, LONGER)


def test_wrapping_does_not_count_and_running_does():
    model = Counter()
    extractor = fxfeat.create_feature_extractor(model, ["mul"], example_inputs=X)
    assert model.n == 0
    assert extractor.n == 0
    for count in (1, 2, 3):
        extractor(X)
        assert extractor.n == count
    assert list(extractor.state_dict()) == ["n", "linear.weight", "linear.bias"]


def test_code_of_a_counter():
    extractor = fxfeat.create_feature_extractor(Counter(), ["mul"], example_inputs=X)
    assert extractor.code.count("+= 1") == 1


def test_state_behind_the_last_feature_stays():
    model = AverageInPlace()
    extractor = fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
    extractor(X)
    assert torch.count_nonzero(model.mean) == 0
    assert "mean" not in extractor.state_dict()


@pytest.mark.parametrize("names", [["first"], ["second"], ["first.0", "second.0"], ["first.1", "second.1"]])
def test_batch_statistics_in_train_mode(names):
    reference = Normed().train()
    mine = copy.deepcopy(reference)
    extractor = fxfeat.create_feature_extractor(mine, names, example_inputs=X)
    for inputs in (X, LONGER, X):
        seen, found = eager(reference, inputs), run(extractor, inputs)
        assert all(same(found[name], seen[name][0]) for name in names)
    for key, value in extractor.state_dict().items():
        assert same(value, reference.state_dict()[key]), key


def test_batch_statistics_of_later_modules_stay():
    model = Normed().train()
    extractor = fxfeat.create_feature_extractor(model, ["first"], example_inputs=X)
    extractor(X)
    assert model.first[1].num_batches_tracked == 1
    assert model.second[1].num_batches_tracked == 0
    assert list(extractor.state_dict()) == [key for key in model.state_dict() if key.startswith("first")]


def test_a_statistic_before_the_feature_is_updated_though_it_is_of_no_use_to_it():
    model = NormBesideTheFeature().train()
    extractor = fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
    extractor(X)
    assert model.norm.num_batches_tracked == 1


def test_wrapping_moves_no_statistic():
    model = Normed().train()
    before = copy.deepcopy(model.state_dict())
    fxfeat.create_feature_extractor(model, ["second"], example_inputs=X)
    assert all(same(value, before[key]) for key, value in model.state_dict().items())


def test_functional_dropout_follows_the_mode():
    assert_equals_eager(FunctionalDropout(), ["linear", "dropout"], X, LONGER)


def _frozen_child(training: bool) -> FrozenChild:
    model = FrozenChild().train(training)
    model.b.train(not training)
    model.c[1].train(not training)
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "names", [["a", "b", "c"], ["a.linear", "b.linear"], ["c"], ["c.1"], ["a.dropout", "b.dropout"]]
)
def test_mixed_training_flags_are_kept(training, names):
    reference, mine = _frozen_child(training), _frozen_child(training)
    mine.load_state_dict(reference.state_dict())
    reference.a.path = mine.a.path = "a"
    reference.b.path = mine.b.path = "b"
    extractor = fxfeat.create_feature_extractor(mine, names, example_inputs=X)
    for inputs in (X, LONGER):
        seen, found = eager(reference, inputs), run(extractor, inputs)
        assert all(same(found[name], seen[name][0]) for name in names)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a.linear", "b.linear"], ["c.1"], ["a.dropout", "b.dropout"]])
def test_mixed_flags_end_where_a_mode_is_set(names):
    model = _frozen_child(True)
    model.a.path, model.b.path = "a", "b"
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for training in (False, True):
        reference = copy.deepcopy(model).train(training)
        extractor.train(training)
        seen, found = eager(reference, X), run(extractor, X)
        assert all(same(found[name], seen[name][0]) for name in names)


def test_random_tensors_are_drawn_as_in_eager():
    assert_equals_eager(Noise(), ["linear", "add_2"], X, LONGER)


def test_random_tensors_are_fresh_at_each_call():
    extractor = fxfeat.create_feature_extractor(Noise(), ["linear"], example_inputs=X)
    assert not same(extractor(X)["linear"], extractor(X)["linear"])
    assert list(extractor.state_dict()) == ["linear.weight", "linear.bias"]


def test_constants_are_no_state():
    extractor = fxfeat.create_feature_extractor(Constants(), ["add"], example_inputs=X)
    assert list(extractor.state_dict()) == ["linear.weight", "linear.bias"]
    assert list(dict(extractor.named_buffers())) == []


def test_constants_are_as_in_eager_call_after_call():
    assert_equals_eager(Constants(), ["linear", "add"], X, LONGER, X)


class ScalesItsWeightForAWhile(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            old = self.linear.weight.clone()
            self.linear.weight.mul_(2)
        y = self.head(self.linear(x))
        with torch.no_grad():
            self.linear.weight.copy_(old)
        return y


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = ScalesItsWeightForAWhile()

    def forward(self, x):
        return self.block(x) * 2


def test_a_parameter_put_back_after_the_last_feature_is_put_back():
    model = ScalesItsWeightForAWhile()
    assert_equals_eager(model, ["linear"], X, LONGER, X)
    extractor = fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
    assert "copy_" in extractor.code
    assert "head" not in extractor.code


def test_a_parameter_put_back_within_a_whole_module_is_right():
    assert_equals_eager(Around(), ["block"], X, LONGER, X)


def test_a_parameter_put_back_before_the_last_feature_is_right():
    model = ScalesItsWeightForAWhile()
    extractor = fxfeat.create_feature_extractor(copy.deepcopy(model), ["linear", "output"], example_inputs=X)
    for inputs in (X, LONGER, X):
        seen, found = eager(model, inputs), run(extractor, inputs)
        assert all(same(found[name], seen[name][0]) for name in ("linear", "output"))


class CountsAfterwards(Counter):
    def forward(self, x):
        y = self.linear(x) * (self.n + 1)
        tap("mul", y)
        self.n += 1
        return y


class CountsByAssignmentAfterwards(Counter):
    def forward(self, x):
        y = self.linear(x) * (self.n + 1)
        tap("mul", y)
        self.n = self.n + 1
        return y


class StartsAnewAfterwards(Counter):
    """Whether the state is put back is decided after the last feature."""

    def forward(self, x):
        y = self.linear(x) * self.n
        tap("mul", y)
        if self.n > 1:
            self.n.zero_()
        else:
            self.n.add_(1)
        return y


class KeepsWhatTheHeadSays(nn.Module):
    """The state that a feature reads is made by layers behind it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)
        self.register_buffer("state", torch.zeros(3, 4))

    def forward(self, x):
        x = self.body(x + self.state)
        y = self.head(x)
        self.state.copy_(y.detach())
        return self.last(y)


@pytest.mark.parametrize("child", [Counter, CountsAfterwards, CountsByAssignmentAfterwards, AverageInPlace])
@pytest.mark.parametrize("names", [["child@0"], ["child.linear@0"]])
def test_the_next_call_sees_what_later_calls_of_a_child_did_to_state(child, names):
    assert_equals_eager(Inside(child()), names, X, LONGER, X)


def test_a_later_update_is_written_without_the_layers_around_it():
    extractor = fxfeat.create_feature_extractor(Inside(Counter()), ["child@0"], example_inputs=X)
    assert extractor.code.count("+= 1") == 1
    assert extractor.code.count("self.child(") == 1
    assert "head" not in extractor.code


@pytest.mark.parametrize("model", [CountsAfterwards, CountsByAssignmentAfterwards])
def test_a_counter_that_counts_after_the_feature(model):
    assert_equals_eager(model(), ["linear", "mul"], X, LONGER, X)


def test_a_counter_that_no_feature_reads_stays():
    extractor = fxfeat.create_feature_extractor(CountsAfterwards(), ["linear"], example_inputs=X)
    extractor(X)
    assert "n" not in extractor.state_dict()


def test_a_decision_about_state_after_the_last_feature_is_checked():
    model = StartsAnewAfterwards()
    mine = copy.deepcopy(model)
    extractor = fxfeat.create_feature_extractor(mine, ["mul"], example_inputs=X)
    for _ in range(2):
        assert same(run(extractor, X)["mul"], eager(model, X)["mul"][0])
    with pytest.raises(fxfeat.GuardError):
        extractor(X)


def test_state_that_layers_behind_a_feature_make_for_the_next_call():
    model = KeepsWhatTheHeadSays()
    assert_equals_eager(model, ["body"], X, X, X)
    extractor = fxfeat.create_feature_extractor(model, ["body"], example_inputs=X)
    assert "self.last" not in extractor.code


class Remembers(nn.Module):
    """Updates its state by what its own layer made, and is called twice."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("held", torch.zeros(4))

    def forward(self, x):
        y = self.linear(x) + self.held
        self.held.add_(y.detach().mean(0))
        return y


class BetweenItsCalls(nn.Module):
    def __init__(self, child):
        super().__init__()
        self.child = child
        self.side = nn.Linear(4, 4)

    def forward(self, x):
        first = self.child(x)
        return self.child(first) + self.side(first)


@pytest.mark.parametrize("names", [["side"], ["child@0"]])
def test_a_whole_call_after_the_feature_that_writes_what_the_next_call_reads(names):
    assert_equals_eager(BetweenItsCalls(Remembers()), names, X, LONGER, X)


def test_spectral_norm_called_twice():
    linear = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    assert_equals_eager(BetweenItsCalls(linear), ["side"], X, LONGER, X)


class Flag(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("up", torch.zeros(()))


class RaisesAFlag(nn.Module):
    def __init__(self, flag):
        super().__init__()
        self.flag, self.linear = flag, nn.Linear(4, 4, bias=False)

    def forward(self, x):
        with torch.no_grad():
            self.flag.up.copy_(self.linear(x).sum())


class GoesByAFlag(nn.Module):
    def __init__(self, flag):
        super().__init__()
        self.flag, self.linear = flag, nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x * 2 if self.flag.up.item() > 0 else x)


class DrawsAVector(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) * torch.rand(4)


class GoesByADraw(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x * 2 if torch.rand(1).item() < 0.4 else x)


class DecidesOnlyInside(nn.Module):
    """What happens in ``first`` matters to what ``second`` decides, and to nothing that it computes."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second, self.head = first, second, nn.Linear(4, 2)

    def forward(self, x):
        self.first(x)
        return self.head(self.second(x))


def flagged():
    flag = Flag()
    return DecidesOnlyInside(RaisesAFlag(flag), GoesByAFlag(flag))


@pytest.mark.parametrize("make", [flagged, lambda: DecidesOnlyInside(DrawsAVector(), GoesByADraw())])
def test_what_a_whole_module_only_decides_on_is_there(make):
    torch.manual_seed(0)
    model = make()
    assert_equals_eager(model, ["second", "head"], X, -X, LONGER, -LONGER)
    assert "self.first(x)" in fxfeat.create_feature_extractor(model.eval(), ["head"], example_inputs=X).code


# -- buffers that are set anew, and then written to --------------------------------------------------------------------


class Queue(nn.Module):
    def __init__(self, update):
        super().__init__()
        self.first, self.update, self.plain = nn.Linear(4, 4), update, torch.zeros(6, 4)
        self.register_buffer("queue", torch.zeros(6, 4))

    def forward(self, x):
        key = self.first(x)
        out = key @ self.queue.clone().t() + key @ self.plain.clone().t()
        self.update(self, key.detach())
        return out


def rolls_and_puts(model, key):
    model.queue = torch.roll(model.queue, len(key), 0)
    model.queue[: len(key)] = key


def joins_and_puts(model, key):
    model.queue = torch.cat([key, model.queue])[:6]
    model.queue[0] = 7


def averages_and_adds(model, key):
    model.queue = model.queue * 0.9 + key.mean(0) * 0.1
    model.queue.add_(1)


def copies_and_writes_to_a_view(model, key):
    model.queue = model.queue.clone()
    view = model.queue[:2]
    view += 1


def rolls_what_is_no_buffer(model, key):
    model.plain = torch.roll(model.plain, len(key), 0)
    model.plain[: len(key)] = key


def keeps_what_an_alias_overwrites(model, key):
    model.plain = key.repeat(2, 1)[:6]
    alias = model.plain
    alias.mul_(3)


@pytest.mark.parametrize(
    "update",
    [
        *(rolls_and_puts, joins_and_puts, averages_and_adds, copies_and_writes_to_a_view),
        *(rolls_what_is_no_buffer, keeps_what_an_alias_overwrites),
    ],
    ids=lambda update: update.__name__,
)
def test_a_buffer_set_anew_is_written_to(update):
    model = Queue(update)
    reference = copy.deepcopy(model)
    extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=torch.randn(3, 4))
    assert not extractor.tapped
    for _ in range(3):
        x = torch.randn(3, 4)
        assert torch.equal(extractor(x)["output"], reference(x))
