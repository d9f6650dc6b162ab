"""A run that is stopped behind its last value is as if it had gone on: nothing notices, and nothing is left undone."""

import copy
import random
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat

X = torch.rand(2, 4)
STEPS = [0]


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(4, 4) for _ in range(3))
        self.errors, self.scale, self.stack = 0, 1, []
        self.lock = threading.Lock()


class CountsWhatPasses(Layers):
    def forward(self, x):
        x = self.first(x) + self.errors
        try:
            return self.last(self.second(x))
        except BaseException:
            self.errors += 1
            raise


class Notices:
    def __init__(self, module):
        self.module = module

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.module.errors += kind is not None


class IsNoticedByARegion(Layers):
    def forward(self, x):
        x = self.first(x) + self.errors
        with Notices(self):
            return self.last(self.second(x))


class FallsBack(Layers):
    def forward(self, x):
        if self.errors:
            return self.last(x)
        try:
            return self.last(self.second(self.first(x)))
        except:  # noqa: E722
            self.errors = 1
            return x


class ScalesAWeight(Layers):
    def forward(self, x):
        weight = self.second.weight.data
        self.second.weight.data = weight * 2
        y = self.second(self.first(x))
        self.second.weight.data = weight
        return self.last(y)


class FreezesForAWhile(Layers):
    def forward(self, x):
        self.last.requires_grad_(False)
        y = self.last(self.second(self.first(x)))
        self.last.requires_grad_(True)
        return y


class PushesAndPops(Layers):
    def forward(self, x):
        self.stack.append(1)
        y = self.second(self.first(x) * len(self.stack))
        self.stack.pop()
        return self.last(y)


class CountsInAGlobal(Layers):
    def forward(self, x):
        STEPS[0] += 1
        y = self.second(self.first(x) * STEPS[0])
        STEPS[0] -= 1
        return self.last(y)


class HooksForAWhile(Layers):
    def forward(self, x):
        hook = self.second.register_forward_hook(lambda module, args, result: result * 2)
        y = self.second(self.first(x))
        hook.remove()
        return self.last(y)


class TurnsGradientsOff(Layers):
    def forward(self, x):
        torch.set_grad_enabled(False)
        y = self.second(self.first(x))
        torch.set_grad_enabled(True)
        return self.last(y)


class SetsTheDefaultDtype(Layers):
    def forward(self, x):
        torch.set_default_dtype(torch.float64)
        y = self.second(self.first(x)) * torch.ones(()).float()
        torch.set_default_dtype(torch.float32)
        return self.last(y)


class EntersAutocast(Layers):
    def forward(self, x):
        region = torch.autocast("cpu", torch.bfloat16)
        region.__enter__()
        y = self.second(self.first(x)).float()
        region.__exit__(None, None, None)
        return self.last(y)


class ExchangesAFunction(Layers):
    def forward(self, x):
        relu, F.relu = F.relu, F.sigmoid
        y = self.second(F.relu(self.first(x)))
        F.relu = relu
        return self.last(y)


class HoldsALock(Layers):
    def forward(self, x):
        assert self.lock.acquire(timeout=1)
        y = self.second(self.first(x))
        self.lock.release()
        return self.last(y)


TRAPS = (
    *(CountsWhatPasses, IsNoticedByARegion, FallsBack, ScalesAWeight, FreezesForAWhile, PushesAndPops),
    *(CountsInAGlobal, HooksForAWhile, TurnsGradientsOff, SetsTheDefaultDtype, EntersAutocast, ExchangesAFunction),
    HoldsALock,
)


def state_of(model):
    weights = [(p.requires_grad, p.detach().clone()) for p in model.parameters()]
    plain = (model.errors, model.scale, list(model.stack), model.lock.locked(), len(model.second._forward_hooks))
    settings = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), F.relu.__name__)
    return plain, settings, STEPS[0], weights


def same_state(left, right):
    same_weights = all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(left[3], right[3], strict=True))
    return left[:3] == right[:3] and same_weights


@pytest.mark.parametrize("kind", TRAPS)
@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_nothing_is_left_undone(kind):
    model = kind().eval()
    before = state_of(model)
    expected = {}
    hook = model.second.register_forward_hook(
        lambda module, args, result: expected.setdefault("second", result.clone())
    )
    model(X)
    hook.remove()
    extractor = fxfeat.create_feature_extractor(model, ["second"], example_inputs=X, engine="tap")
    assert same_state(state_of(model), before)
    for _ in range(2):
        found = extractor(X)["second"]
        if kind is not HooksForAWhile:  # the hook above ran before the one that the model put on
            assert torch.equal(found, expected["second"])
        assert same_state(state_of(model), before)


class Draws(Layers):
    def forward(self, x):
        return self.last(self.second(self.first(x)) + random.random())


def test_a_run_is_stopped_where_nothing_notices():
    model, ran = Draws().eval(), []
    extractor = fxfeat.create_feature_extractor(model, ["second"], example_inputs=X, engine="tap")
    model.last.register_forward_hook(lambda *_: ran.append(1))
    extractor(X)
    assert ran == []
    assert not [name for name in extractor.state_dict() if name.startswith("last")]


class TriesAroundTheLast(Layers):
    def forward(self, x):
        x = self.first(x)
        try:
            return self.last(self.second(x))
        finally:
            pass


def test_what_lies_behind_may_fail_where_the_run_goes_on():
    model = TriesAroundTheLast().eval()
    extractor = fxfeat.create_feature_extractor(model, ["second"], example_inputs=X, engine="tap")
    model.last.double()
    assert torch.equal(extractor(X)["second"], model.second(model.first(X)))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.norm(x)
        return self.behind(self.last(y))

    def behind(self, y):
        return y


class DampsStatistics(Normed):
    def behind(self, y):
        self.norm.running_mean.mul_(0.5)
        return y


class DampsStatisticsInTraining(Normed):
    def behind(self, y):
        if self.training:
            self.norm.running_var *= 0.5
        return y


class NormsAgain(Normed):
    def behind(self, y):
        return self.norm(y)


class Center(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("values", torch.zeros(4))


class KeepsACenter(Normed):
    """Each mode uses it on another side of the norm."""

    def __init__(self):
        super().__init__()
        self.center = Center()

    def forward(self, x):
        return super().forward(x if self.training else x - self.center.values)

    def behind(self, y):
        if self.training:
            self.center.values.mul_(0.5).add_(y.detach().mean(0))
        return y


class CannotBeRecorded(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if torch.overrides._get_current_function_mode_stack():
            raise RuntimeError("no modes here")
        return self.inner(x)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("kind", [DampsStatistics, DampsStatisticsInTraining, NormsAgain, KeepsACenter])
def test_what_is_left_for_the_other_mode_is_done(kind, recorded):
    mine = kind()
    if not recorded:
        mine = CannotBeRecorded(mine)
    reference, seen = copy.deepcopy(mine), []
    name = "norm@0" if recorded else "inner.norm@0"
    reference.get_submodule(name[:-2]).register_forward_hook(lambda module, args, result: seen.append(result.clone()))
    extractor = fxfeat.create_feature_extractor(mine, [name], example_inputs=X, engine="tap")
    for training in (True, True, False, True, False):
        seen.clear()
        reference.train(training)(X), extractor.train(training)
        assert torch.equal(extractor(X)[name], seen[0])


def test_a_run_is_stopped_before_what_no_mode_reads():
    model, ran = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4)), []
    extractor = fxfeat.create_feature_extractor(model, ["0"], example_inputs=X, engine="tap")
    model[2].register_forward_hook(lambda *_: ran.append(1))
    extractor.train()(X), extractor.eval()(X)
    assert ran == []
